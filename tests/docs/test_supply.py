"""What is installed: pinned, listed, and read by nothing that could run it."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split(";")[0].strip() for line in lines if line.strip() and line[0] != "#"]
    return dict(line.split("==") for line in found)


def asked_for():
    """Every requirement of pyproject.toml, extras too, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {normalised(re.split(r"[\[<>=!~ ;]", line)[0]) for every in lists for line in every}
    return names - {"vpetl-ray"}


def installed(name):
    """The version that these tests run with; None: none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def test_every_pin_is_a_plain_name_and_version():
    for name, pinned in pins().items():
        assert re.fullmatch(r"[A-Za-z0-9][\w.\-]*", name), name
        assert re.fullmatch(r"[\w.+!]+", pinned), (name, pinned)


def test_what_is_asked_for_is_pinned_and_is_what_these_tests_run_with():
    pinned = {normalised(name): number for name, number in pins().items()}
    assert asked_for() - pinned.keys() == set()
    found = {name: installed(name) for name in asked_for()}
    assert {n: (v, pinned[n]) for n, v in found.items() if v != pinned[n]} == {}


def test_every_pin_has_its_licence_in_the_list():
    listed = (ROOT / "docs" / "licences.md").read_text()
    rows = dict(re.findall(r"^\| ([\w.\-]+) \| ([\w.+!]+) \|", listed, re.MULTILINE))
    assert {name: rows.get(name) for name in pins()} == pins()


@pytest.mark.parametrize("path", ["README.md", "docker/install.sh"])
def test_who_installs_takes_the_pins(path):
    assert re.search(r"install [^\n]*-c\s+\S*constraints\.txt", (ROOT / path).read_text())


@pytest.mark.parametrize(
    "line",
    ["pickle.load(file)", "yaml.load(text)", "torch.load(path)", "np.load(p, allow_pickle=True)"],
)
def test_make_check_finds_what_runs_what_it_reads(tmp_path, line):
    """Its own command, on a repository with one such line in it."""
    make = (ROOT / "Makefile").read_text()
    command = re.search(r"@(! git grep -nE .*?exit 1; \})", make, re.DOTALL)[1]
    command = command.replace("\\\n", " ").replace("\t", " ").replace("$$", "$")
    (tmp_path / "vpetl_ray").mkdir()
    for name in ("cluster", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("x = 1\n")
    target = tmp_path / "vpetl_ray" / "x.py"

    def check(text):
        target.write_text(text + "\n")
        for words in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
        return subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, check=False, capture_output=True
        ).returncode

    assert check("torch.load(path, weights_only=True)") == 0
    assert check(line) == 1
