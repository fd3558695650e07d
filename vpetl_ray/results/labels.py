"""Configs and counts in few words, for figures, tables and MLflow's list of runs."""

from collections.abc import Mapping
from pathlib import Path

from vpetl_ray.results.objectives import COSTS
from vpetl_ray.results.records import Scalar, TrialRecord

_SHORT_FIELDS = {
    "d_bottle": "d",
    "d_middle": "m",
    "scale": "s",
    "stages": "@",
    "blocks": "#",
    "num_tokens": "n",
    "rank": "r",
    "alpha": "a",
}
_SKIPPED_FIELDS = {"enabled", "train", "activation", "targets"}
_LONG_FIELDS = {"scale", "alpha", "stages", "blocks", "placement"}
_LONG_FIELDS |= {"kernel", "depth", "way", "rel_pos"}
# Placements that are the method's normal one are not worth a word.
_SKIPPED_VALUES = {"parallel", "all", "3x1x1", "deep", "prepend"}


def count_label(count: float, figures: int = 3) -> str:
    """Three figures at most, or so many: 950, 1.2k, 38.9k, 390k, 1.36M."""
    if abs(count) < 1000:
        return f"{count:.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        digits = f"{count / size:.{figures}g}"
        if unit == "G" or float(digits) < 1000:
            return f"{digits}{unit}"
    raise AssertionError("the largest unit takes everything")


def path_label(path: Path) -> str:
    """As a person here would type it: without the way to here, where it lies below."""
    full = path.absolute()
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed while the search ran, as Ray may do with a job's
        return str(full)
    return str(full.relative_to(here) if full.is_relative_to(here) else full)


def cost_label(name: str, value: float | None) -> str:
    """Three figures, of counts four; a dash for what was not measured.

    An adapter adds less than a hundredth to a backbone's FLOPs.
    """
    if value is None:
        return "-"
    return count_label(value, 4) if COSTS[name].is_count else f"{value:.3g}"


def config_label(config: Mapping[str, Scalar | None], *, brief: bool = False) -> str:
    """Methods and widths of a config: ``patt kv d8 s0.8 + adapter d16 @1+2``.

    ``brief`` leaves out scales, stages, blocks and placements: ``patt kv d8 + adapter d16``. A
    value of every stage is written ``d8/-/4``, blocks as ``#1-3+6``.

    Reads paths of the form ``petl.<method>.<field>``, with ``.stage<number>`` behind it where a
    stage has a value of its own. A method without values is off; a config without methods is a
    ``linear probe``, or ``nothing trained`` if its classifier is frozen too.
    """
    parts = [
        _method_label(method, fields, brief=brief)
        for method, fields in _methods(config).items()
        if _is_on(fields)
    ]
    if parts:
        return " + ".join(parts)
    return "nothing trained" if config.get("petl.classifier.train") is False else "linear probe"


def trial_label(record: TrialRecord, *, brief: bool = False) -> str:
    """Its given name, or else its config."""
    return record.name or config_label(record.config, brief=brief)


def has_method(config: Mapping[str, Scalar | None], method: str) -> bool:
    """Whether anything of this method is there."""
    return _is_on(_methods(config).get(method, {}))


def is_probe(config: Mapping[str, Scalar | None]) -> bool:
    """Whether no method is there at all."""
    return not any(_is_on(fields) for fields in _methods(config).values())


def _methods(config: Mapping[str, Scalar | None]) -> dict[str, dict[str, Scalar]]:
    """Every method's fields that have a value; those of the stages as one."""
    methods: dict[str, dict[str, Scalar]] = {}
    by_stage: dict[tuple[str, str], list[Scalar | None]] = {}
    for path, value in config.items():
        root, _, rest = path.partition(".")
        method, _, field = rest.partition(".")
        if root != "petl" or method == "classifier" or not field:
            continue
        field, _, stage = field.partition(".")
        if stage:
            by_stage.setdefault((method, field), []).append(value)
            value = _of_stages(by_stage[method, field])  # noqa: PLW2901 - the last one counts
        if value is not None:
            methods.setdefault(method, {})[field] = value
    return methods


def _of_stages(values: list[Scalar | None]) -> Scalar | None:
    """Write what the stages have: ``8/-/4``, or the one value if all have it."""
    if len(set(values)) == 1:
        return values[0]
    return "/".join("-" if value is None else _value_label(value) for value in values)


def _is_on(fields: Mapping[str, Scalar]) -> bool:
    """Whether anything of it is there: no target, stage or block turns a method off, too."""
    chosen = (fields.get(field) for field in ("targets", "kinds", "stages", "blocks"))
    if fields.get("enabled") is False or "none" in chosen:
        return False
    return any(field != "enabled" and value != "" for field, value in fields.items())


def _method_label(method: str, fields: Mapping[str, Scalar], *, brief: bool) -> str:
    words = [method, str(fields.get("targets", ""))]
    skipped = _SKIPPED_FIELDS | _LONG_FIELDS if brief else _SKIPPED_FIELDS
    if "blocks" in fields:
        skipped = skipped | {"stages"}  # blocks say it all
    for field, value in fields.items():
        if field in skipped or _is_normal(value):
            continue
        shown = _in_runs(str(value)) if field == "blocks" else _value_label(value)
        words.append(field if value is True else f"{_SHORT_FIELDS.get(field, '')}{shown}")
    return " ".join(word for word in words if word)


def _is_normal(value: Scalar) -> bool:
    return value is False or (isinstance(value, str) and value in _SKIPPED_VALUES)


def _value_label(value: Scalar) -> str:
    if isinstance(value, float):
        return f"{value:.2g}"
    return str(value)


def _in_runs(blocks: str) -> str:
    """Write ``1+2+3+6`` as ``1-3+6``."""
    runs: list[list[int]] = []
    for block in map(int, blocks.split("+")):
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return "+".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else "+".join(map(str, r)) for r in runs)
