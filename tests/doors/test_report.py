"""Pictures of a search and of several, also while it runs."""

import fcntl
import json
import re
import shutil

import pytest

from vpetl_ray.errors import SpecError
from vpetl_ray.results.comparison import compare
from vpetl_ray.results.paper_points import paper_points
from vpetl_ray.results.search_folder import read_search

pytestmark = pytest.mark.timeout(280)  # the first one waits for the search


def charts_of(page):
    [found] = re.findall(r"const CHARTS = (\{.*?\});\nfor ", page.read_text(), re.DOTALL)
    return json.loads(found.replace("<\\/", "</"))


def test_a_search_leaves_its_page(search):
    page = search / "report.html"
    text = page.read_text()
    assert 'http-equiv="refresh"' not in text
    front = json.loads((search / "front.json").read_text())["front"]
    for entry in front:
        assert f"<td>{entry['id']}" in text
    chart = charts_of(page)["chart0"]
    traces = {trace.get("name"): trace for trace in chart["data"]}
    members = traces[f"front ({len(front)})"]
    assert members["x"] == [entry["trainable_params"] for entry in front]
    assert members["y"] == [entry["top1"] for entry in front]
    assert all(f"<b>{e['id']}</b>" in t for e, t in zip(front, members["text"], strict=True))
    assert traces["front on the test split"]["y"] == [entry["test_top1"] for entry in front]
    assert chart["layout"]["shapes"][0]["x0"] == 12_000  # the budget
    # Nothing is fetched: every address is in plotly's own code, as text.
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]
    assert "http://" not in own
    assert "https://" not in own


def test_the_door_draws_everything_again(run, search, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(search, folder)
    for file in (*folder.glob("*.png"), folder / "report.html"):
        file.unlink()
    done = run("report", folder)
    assert done.returncode == 0, done.stderr
    told = {line.rpartition("/")[2] for line in done.stdout.splitlines()}
    names = ("front", "history", "parallel", "positions")
    assert told == {f"{n}.{s}" for n in names for s in ("png", "svg")} | {"report.html"}
    assert all((folder / name).stat().st_size > 5_000 for name in told)

    # As another process sees it that asks while the search is at work.
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run("report", folder).returncode == 0
    assert 'http-equiv="refresh"' in (folder / "report.html").read_text()
    done = run("report", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "is no search's results folder" in done.stderr


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("spec.yaml", "a: [", "expected the node content"),
        ("spec.yaml", "!!python/name:os.system x", "could not determine a constructor"),
        ("spec.yaml", "a: \0", "special characters are not allowed"),
        ("spec.yaml", "[" * 5_000, "recursion"),
        ("spec.yaml", "data: {source: [1]}", "source: must be a str, got [1]"),
        ("spec.yaml", "- data", "data: must be a dict, got ['data']"),
        ("front.json", "[" * 100_000, "recursion"),
        ("front.json", "[]", "backbone: must be a str, got []"),
        ("front.json", {"name": {}}, "name: must be a str, got {}"),
        ("front.json", {"backbone": None}, "backbone: must be a str, got None"),
        ("front.json", {"budget": "x"}, "budget: must be a count of parameters or null, got x"),
        ("front.json", {"objectives": 1}, "objectives: must be a list, got 1"),
        (
            "front.json",
            {"objectives": ["latency_ms"], "hypervolume_reference": {"latency_ms": "x"}},
            "hypervolume_reference.latency_ms: must be above 0, got 'x'",
        ),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, file, content, problem):
    front = {"name": "n", "backbone": "swin3d_nano", "budget": None, "hypervolume_reference": {}}
    (tmp_path / "front.json").write_text(json.dumps(front))
    (tmp_path / "spec.yaml").write_text("data: {source: demo}")
    (tmp_path / "trials.parquet").touch()
    text = json.dumps({**front, **content}) if isinstance(content, dict) else content
    (tmp_path / file).write_text(text)
    with pytest.raises(SpecError, match=re.escape(problem)) as caught:
        read_search(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: its files are not those of a search: ")


def test_fronts_over_each_other(run, search, tmp_path):
    worse = tmp_path / "worse" / "tiny"
    shutil.copytree(search, worse)
    spec = (worse / "spec.yaml").read_text()
    (worse / "spec.yaml").write_text(spec.replace("source: folder", "source: csv"))
    done = run("compare", search, worse, "--out", "cmp")
    assert done.returncode == 0, done.stderr
    assert "mind: they have different data sets: folder, csv" in done.stdout
    document = json.loads((tmp_path / "cmp" / "compare.json").read_text())
    first, second = document["searches"]
    assert (first["name"], second["name"]) == ("runs/tiny", "worse/tiny")
    assert first["ratio"] == second["ratio"] == 1.0
    volume = json.loads((search / "front.json").read_text())["hypervolume"]
    assert first["hypervolume"] == pytest.approx(volume)
    assert len(charts_of(tmp_path / "cmp" / "compare.html")["chart0"]["data"]) == 4
    assert (tmp_path / "cmp" / "compare.svg").stat().st_size > 5_000
    done = run("compare", search)
    assert (done.returncode, done.stderr) == (2, "give two or more results folders to compare\n")


def test_a_ratio_is_of_hypervolumes(search):
    found = read_search(search)
    fewer = found.records[:1]
    other = type(found)(path=search / "x", facts=found.facts, records=fewer, is_running=True)
    comparison = compare([found, other])
    first, second = comparison.entries
    assert second.ratio == pytest.approx(second.hypervolume / first.hypervolume)
    assert second.ratio <= 1
    assert comparison.remarks == ("tiny still runs",)


def test_the_papers_points_stand_beside_its_own_setting_alone():
    points = {point.label: point for point in paper_points("swin3d_b", "ssv2")}
    assert (points["Swin-BAPAT 128"].params, points["Swin-BAPAT 128"].top1) == (6.38e6, 53.36)
    assert {p.label: p.top1 for p in paper_points("swin3d_b", "hmdb51")}["linear probe"] == 71.28
    assert paper_points("swin3d_b", "folder") == paper_points("swin3d_nano", "ssv2") == ()
