"""Whatever is in a search space file, the search answers with a plan or a sentence.

Files go through the real door with `--dry-run`, in this process; a handful through the command
itself. Python's own audit events tell of every file that is opened to be written, every folder
made, every program started and every connection made meanwhile: there must be none.
"""

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from typer.testing import CliRunner

from tests.faults.spec_files import ANY_FILE, BARE
from vpetl_ray.search import search

MAX_CPU_SECONDS = 20.0
MAX_GROWTH_BYTES = 600 * 2**20
_DOOR = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_DOOR.command()(search)
_ACTS = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
    "shutil.rmtree", "socket.connect", "pickle.find_class",
}  # fmt: skip
_seen: list[str] = []
_watch = {"is_on": False}


def _audit(event, arguments):
    if not _watch["is_on"]:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else 0
        if (writes or set(str(mode)) & set("wax+")) and str(path) != os.devnull:
            _seen.append(f"{event} {path} {mode}")
    elif event in _ACTS:
        _seen.append(f"{event} {arguments}"[:200])


sys.addaudithook(_audit)  # for good: Python has no way to take one out


@contextmanager
def nothing_done():
    """Check that nothing is written, made, started or called in the block."""
    _seen.clear()
    _watch["is_on"] = True
    try:
        yield
    finally:
        _watch["is_on"] = False
    assert not _seen


def check_answer(code, said):
    assert code in (0, 2), said
    assert said.strip()
    assert "Traceback (most recent" not in said
    if code == 2:
        for line in said.rstrip("\n").split("\n"):
            assert len(line) < 1000, line


def try_file(path, content):
    path.write_bytes(content)
    start = time.process_time()
    with nothing_done():
        result = CliRunner().invoke(_DOOR, [str(path), "--dry-run"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    check_answer(result.exit_code, result.output)
    assert time.process_time() - start < MAX_CPU_SECONDS, "too long"
    return result.exit_code


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory and home, and what the door imports when all is well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "good.yaml").write_text(BARE)
    result = CliRunner().invoke(_DOOR, ["good.yaml", "--dry-run"])
    assert result.exit_code == 0, result.output
    return tmp_path


def fuzz(place, num_files):
    codes = {0: 0, 2: 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        deadline=None,
        max_examples=num_files,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=ANY_FILE)
    def every_file(content):
        codes[try_file(place / "any.yaml", content)] += 1

    every_file()
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert growth < MAX_GROWTH_BYTES
    assert {path.name for path in place.iterdir()} <= {"good.yaml", "any.yaml"}
    return codes, growth


def test_any_file_gives_a_plan_or_a_sentence(place):
    fuzz(place, 200)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_five_thousand_files_give_a_plan_or_a_sentence(place, record_fault):
    start = time.monotonic()
    codes, growth = fuzz(place, 5000)
    record_fault("a hostile search space file", injected=sum(codes.values()))
    seconds = time.monotonic() - start
    print(
        f"\n{codes[0]} plans, {codes[2]} sentences, {growth / 2**20:.0f} MB more, {seconds:.0f} s"
    )
    assert codes[0] > 50
    assert codes[2] > 1000


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "bomb": (LAUGHS, "anchors and aliases"),
    "python": (
        "name: !!python/object/apply:os.system ['touch owned']\n",
        "tags (tag:yaml.org,2002",
    ),
    "deep": ("name: " + "[" * 50_000, "nested more than 16 deep"),
    "twice": (BARE + "name: again\n", "is given twice (first in line"),
    "nan": (BARE.replace("training:\n", "training:\n  weight_decay: .nan\n"), "finite number"),
    "huge": (
        BARE.replace("training:\n", "training:\n  weight_decay: 1e999\n"),
        "too long or too la",
    ),
}


def test_the_command_itself_answers_hostile_files_with_a_sentence(tmp_path):
    """In one process, one after the other, as imports take seconds."""
    program = """\
import os, sys, runpy
os._exit = sys.exit  # the door's last word; here, others follow
for name in sys.argv[1:]:
    sys.argv = ["search", name, "--dry-run"]
    try:
        runpy.run_module("vpetl_ray.search", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(name, end.code, file=sys.stderr)
"""
    for name, (text, _) in HOSTILE.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *(f"{name}.yaml" for name in HOSTILE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    lines = done.stderr.splitlines()
    for name, (_, sentence) in HOSTILE.items():
        end = lines.index(f"{name}.yaml 2")
        assert sentence in lines[end - 1]
        assert lines[end - 1].startswith(f"{name}.yaml:")
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.yaml" for name in HOSTILE}


def test_the_command_ends_with_exit_code_two(tmp_path):
    (tmp_path / "bomb.yaml").write_text(LAUGHS)
    done = subprocess.run(
        [sys.executable, "-m", "vpetl_ray.search", "bomb.yaml", "--dry-run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    check_answer(done.returncode, done.stderr)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["bomb.yaml"]
