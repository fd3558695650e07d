"""A dry run opens the data set as the search would, whatever its source."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from vpetl_ray.search import search

SPEC = """
petl: {patt: {d_bottle: 8}}
training: {learning_rate: 0.01, epochs: 1, batch_size: 4}
data:
"""


def dry_run(folder: Path, data: str) -> Result:
    (folder / "spec.yaml").write_text(f"{SPEC}  {data}")
    app = typer.Typer()
    app.command()(search)
    return CliRunner().invoke(app, [str(folder / "spec.yaml"), "--dry-run"])


def test_a_csv_manifest_with_videos_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "lists").mkdir()
    lines = ["path,label"]
    for label in ("a", "b", "c"):
        for i in range(4):
            (tmp_path / "videos" / f"{label}{i}.mp4").touch()
            lines.append(f"../videos/{label}{i}.mp4,{label}")
    (tmp_path / "lists" / "all.csv").write_text("\n".join(lines))
    inside = dry_run(tmp_path, "{source: csv, path: lists/all.csv}")
    assert inside.exit_code == 2
    assert "data.outside_paths: true allows that" in inside.output
    done = dry_run(tmp_path, "{source: csv, path: lists/all.csv, outside_paths: true}")
    assert done.exit_code == 0, done.output
    assert "worker group" in done.output


@pytest.mark.parametrize("split", [1, 3])
def test_the_official_split_that_the_search_would_take(tmp_path: Path, split: int) -> None:
    for label in ("walk", "wave"):
        (tmp_path / label).mkdir()
        uses = {f"Film_{i}_{label}_u_nm_np1_ba_goo_0.avi": 1 + (i > 2) for i in range(5)}
        for name in uses:
            (tmp_path / label / name).touch()
        lists = tmp_path / "testTrainMulti_7030_splits"
        lists.mkdir(exist_ok=True)
        text = "".join(f"{name} {use} \n" for name, use in uses.items())
        (lists / f"{label}_test_split3.txt").write_text(text)
    done = dry_run(tmp_path, f"{{source: hmdb51, path: ., split: {split}}}")
    assert done.exit_code == (0 if split == 3 else 2), done.output
    if split == 1:
        assert "no lists <class>_test_split1.txt" in done.output


def test_a_path_that_leads_nowhere_is_named_with_its_line_and_what_should_be_there(
    tmp_path: Path,
) -> None:
    done = dry_run(tmp_path, "{source: csv, path: all.csv}")
    assert done.exit_code == 2
    assert f"spec.yaml:5: data.path: {tmp_path / 'all.csv'} does not exist" in done.output
    assert "path,label,split" in done.output
