"""Every command in the README and the docs is one that its door understands."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOOR = re.compile(r"^(?:\.venv/bin/)?python3? -m vpetl_ray\.(\w+) ?(.*)")


def commands():
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                if match := DOOR.search(line.partition(" && .venv")[0].strip()):
                    yield pytest.param(*match.groups(), id=f"{page.stem}: {match[0][:70]}")


@pytest.mark.parametrize(("door", "words"), list(commands()))
def test_a_command_of_the_docs_is_understood(door, words):
    module = importlib.import_module(f"vpetl_ray.{door}")
    app = typer.Typer()
    app.command()(getattr(module, door))
    command = typer.main.get_command(app)
    arguments = shlex.split(words, comments=True)
    with command.make_context(door, arguments) as context:
        assert context.params
    for word in arguments:
        if word.startswith("search_spaces/"):
            assert (ROOT / word).is_file()


def test_every_door_of_the_table_is_there_and_every_door_is_in_the_table():
    readme = (ROOT / "README.md").read_text()
    table = "|".join(line for line in readme.splitlines() if line.startswith("| `"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for script, target in project["scripts"].items():
        module = target.removeprefix("vpetl_ray.").removesuffix(":main")
        ways = (f"python -m vpetl_ray.{module}", f"python cluster/{module}.py", script)
        assert any(f"`{way}" in table for way in ways), script
    for module in re.findall(r"`python -m vpetl_ray\.(\w+)", table):
        assert f"vpetl_ray.{module}:main" in project["scripts"].values()
