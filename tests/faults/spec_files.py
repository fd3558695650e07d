"""Search space files that nobody should write, and more that somebody could."""

from pathlib import Path

import yaml
from hypothesis import strategies as st

FLAGSHIP = Path(__file__).parents[2] / "search_spaces" / "position_scale.yaml"
# Without its comments, so that every mutation hits something.
BARE = "".join(
    line.split("#")[0].rstrip() + "\n"
    for line in FLAGSHIP.read_text().splitlines()
    if line.split("#")[0].strip()
)
PATHS = sorted({line.split(":")[0].strip() for line in BARE.splitlines()} | {"name", "tracking"})

_WORDS = ["all", "auto", "learned", "5%", "2M", "demo", "folder", "x", "grid", "..", "/", "~/x"]
_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**30, max_value=10**400),
    st.floats(),
    _TEXT,
    st.sampled_from(_WORDS),
    st.sampled_from(["'; DROP TABLE trials; --", "$(touch owned)", "a\nb", "\u202egnp", "\x00"]),
)
_KEYS = st.one_of(
    st.sampled_from(["choice", "int", "float", "subset", "log", "min", "step", "name"]),
    st.sampled_from(PATHS),
    _TEXT,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=10,
)


def _places(tree, path=()):
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))
        else:
            yield (*path, key)


@st.composite
def wrong_values(draw):
    """The flagship with a few values or keys that are something else."""
    tree = yaml.safe_load(BARE)
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.sampled_from([place for place in _places(tree) if place]))
        place = tree
        for key in where[:-1]:
            place = place[key]
        if isinstance(place, dict) and draw(st.booleans()):
            place[draw(_KEYS)] = draw(VALUES)
        else:
            place[where[-1]] = draw(VALUES)
    return yaml.safe_dump(tree, allow_unicode=True).encode()


@st.composite
def wrong_lines(draw):
    """The flagship with lines put in, doubled, indented, or given strange values."""
    lines = BARE.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        key = draw(st.sampled_from(PATHS))
        value = draw(st.one_of(_bombs(), st.sampled_from(_STRANGE)))
        indent = " " * draw(st.integers(0, 6))
        how = draw(st.sampled_from(["insert", "replace", "double", "indent"]))
        if how == "insert":
            lines.insert(at, f"{indent}{key}: {value}")
        elif how == "replace":
            lines[at] = f"{lines[at].partition(':')[0]}: {value}"
        elif how == "double":
            lines.insert(at, lines[at])
        else:
            lines[at] = indent + lines[at]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


_STRANGE = [
    ".nan", "-.inf", "1e999", "9" * 5000, "0x" + "f" * 300, "1_000", "0o777", "12:30:45",
    "2026-01-01", "!!python/object/apply:os.system ['touch owned']",
    "!!python/name:os.system", "!!binary aGk=", "!!set {a, b}", "!<tag:yaml.org,2002:int> 3",
    "&a [*a]", "*nowhere", "{<<: {name: x}}", "? [a]", "'\u2028'", "\ud83d", '"\\x00"',
    '"\\U0010ffff"',
    "|\n  text", "> \n", "---", "...", "%YAML 9.9", "\t", "@x", "`x`", "[", "}", "'", '"', "#",
]  # fmt: skip


@st.composite
def _bombs(draw):
    """What grows: depth, breadth, aliases of aliases."""
    size = draw(st.sampled_from([3, 17, 200, 3000, 100_000]))
    kind = draw(st.sampled_from(["lists", "maps", "flat", "word", "laughs", "numbers"]))
    if kind == "lists":
        return "[" * size + "]" * draw(st.sampled_from([0, size]))
    if kind == "maps":
        return "{a: " * size + "1" + "}" * size
    if kind == "flat":
        return "[" + "x," * size + "]"
    if kind == "word":
        return draw(st.sampled_from(["x", "é", "\U0001d4b3", "\\"])) * size
    if kind == "numbers":
        return "[" + ", ".join(str(i) for i in range(min(size, 3000))) + "]"
    laughs = "".join(f", &l{i + 1} [*l{i}, *l{i}, *l{i}, *l{i}]" for i in range(min(size, 30)))
    return f"[&l0 [ha, ha]{laughs}]"


@st.composite
def broken_bytes(draw):
    """The flagship with pieces cut out, put elsewhere, or replaced by bytes that are no text."""
    content = bytearray(BARE.encode())
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(start + 60, len(content))))
        pieces = [b"{", b"[", b"&a ", b"*a", b"!!set ", b"? ", b"<<: ", b"\n  ", b"-", b"\xff\xfe"]
        piece = st.one_of(
            st.binary(max_size=8),
            st.sampled_from(pieces),
            st.just(bytes(content[: draw(st.integers(0, 80))])),
        )
        content[start:stop] = draw(piece)
    return bytes(content)


ANY_FILE = st.one_of(
    wrong_values(),
    wrong_lines(),
    broken_bytes(),
    st.binary(max_size=200),
    VALUES.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode()),
    _bombs().map(str.encode),
)
