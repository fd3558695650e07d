"""The docs are true: the notebook runs, the site builds without a warning, no method is missing."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from vpetl_ray.petl.methods import METHODS

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_the_notebook_goes_from_a_search_to_a_prediction(tmp_path, monkeypatch):
    # The demo's videos are made once for all; of the search, nothing stays in the repository.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "search_spaces").symlink_to(ROOT / "search_spaces")
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == 10
    assert not any(cell.outputs for cell in cells), "outputs are not committed"
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    try:
        client.execute()
    finally:
        told = "\n".join(str(cell.outputs) for cell in cells)
        print(told)
    assert "Pareto front" in told
    assert "labels agree" in told
    assert "report.html" in told
    assert "Traceback" not in told
    assert "[3/3] t0002 complete" in told, "plain lines: a cell cannot move a cursor up"
    assert "\\x1b[1A" not in told
    assert " of 24 right, with " in told


@pytest.mark.timeout(120)
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert pages >= {path.stem for path in (ROOT / "docs").glob("*.md")}


def test_every_method_is_described():
    text = (ROOT / "docs" / "methods.md").read_text()
    described = {line[3:] for line in text.splitlines() if line.startswith("## ")}
    assert described == set(METHODS)
