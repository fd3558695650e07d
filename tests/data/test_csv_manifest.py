"""CSV manifests: what the lines say, and where the videos may lie."""

from pathlib import Path

import pytest

from tests.data.conftest import VideoMaker
from vpetl_ray.data.catalogue import open_data_set
from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.errors import DataError


def manifest(root: Path, *lines: str, name: str = "list.csv") -> Path:
    root.mkdir(exist_ok=True)
    path = root / name
    path.write_text("\n".join(lines) + "\n")
    for line in lines[1:]:
        video = root / line.split(",")[0].strip().strip('"')
        if ".." not in video.parts and not video.exists():
            video.parent.mkdir(parents=True, exist_ok=True)
            video.touch()
    return path


def rows(label: str, count: int, split: str = "") -> list[str]:
    return [
        f"{label}/{split}{i:02d}.mp4,{label}{',' + split if split else ''}" for i in range(count)
    ]


def opened(path: Path, **options: object) -> DataSet:
    return open_data_set("csv", path, cache_root=path.parent / "cache", **options)  # type: ignore[arg-type]


def test_three_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "\ufeffpath, label ,split,seconds",  # a byte order mark, a blank, a column of the user's
        '"a, b/1.mp4",jump,train,3',
        "2.mp4,sit,train,1",
        "",
        "3.mp4,sit,validation",
        "4.mp4, jump ,test",
    )
    (tmp_path / "a, b").mkdir()
    data_set = opened(path)
    assert data_set.classes == ("jump", "sit")
    assert {
        split: [(str(Path(i.path).relative_to(tmp_path)), i.label) for i in items]
        for split, items in data_set.splits.items()
    } == {"train": [("a, b/1.mp4", 0), ("2.mp4", 1)], "val": [("3.mp4", 1)], "test": [("4.mp4", 0)]}
    assert data_set.notes == ()


def test_without_a_split_column_val_and_test_are_held_out_of_every_class(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label", *rows("a", 20), *rows("b", 10))
    data_set = opened(path, val_share=0.2)
    labels = {split: [item.label for item in items] for split, items in data_set.splits.items()}
    assert labels["test"] == [0] * 4 + [1] * 2
    assert labels["val"] == [0] * 3 + [1] * 2
    assert data_set.num_videos == 30
    assert "the manifest brings no splits" in data_set.notes[0]


def test_without_test_lines_val_is_kept_for_the_final_figures(tmp_path: Path) -> None:
    lines = [*rows("a", 10, "train"), *rows("b", 10, "train"), *rows("a", 2, "val")]
    data_set = opened(manifest(tmp_path, "path,label,split", *lines))
    assert [Path(item.path).name for item in data_set.splits["test"]] == ["val00.mp4", "val01.mp4"]
    assert "there is no test split: val is kept for the final figures" in data_set.notes[0]


def test_labels_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    lines = [line for label in ("10", "9", "2", "x") for line in rows(label, 4)]
    assert opened(manifest(tmp_path, "path,label", *lines)).classes == ("2", "9", "10", "x")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("c.mp4", "must have a path and a label"),
        (",b", "must have a path and a label"),
        ("c.mp4,b,dev", "the split must be one of train, val, validation, test, got 'dev'"),
        ("c.mp4,b", "the split must be one of"),
        ("a/../a/train00.mp4,b,test", "a/../a/train00.mp4 is listed already, in line 2"),
        ("c.mp4,b,test,more", "has more fields than the first line names"),
        (f"c.mp4,{'1' * 5_000},test", "the label must be at most 1000 characters"),
        ("c.mp4,b\x1b[31m,test", "the label must be at most 1000 characters, none of them"),
        ("c.mp4,b\x00c,test", "the label must be at most 1000 characters, none of them"),
        ('"c.mp4,b,test', "cannot be read as CSV: unexpected end of data"),
    ],
    ids=[
        "no label",
        "no path",
        "another split",
        "no split",
        "listed twice",
        "many fields",
        "long label",
        "escape",
        "NUL",
        "open quote",
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = manifest(tmp_path, "path,label,split", *rows("a", 3, "train"), *rows("b", 3, "train"))
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError) as caught:
        opened(path)
    assert f"list.csv, line 8: {problem}" in str(caught.value)


@pytest.mark.parametrize("how", ["dots", "absolute", "linked file", "linked folder"])
def test_a_video_outside_is_refused_unless_it_is_stated(tmp_path: Path, how: str) -> None:
    outside = tmp_path / "elsewhere" / "x.mp4"
    outside.parent.mkdir()
    outside.touch()
    root = tmp_path / "set"
    root.mkdir()
    (root / "link.mp4").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    name = {
        "dots": "a/../../elsewhere/x.mp4",
        "absolute": str(outside),
        "linked file": "link.mp4",
        "linked folder": "folder/x.mp4",
    }[how]
    path = manifest(root, "path,label", *rows("a", 5), *rows("b", 5), f"{name},b")
    with pytest.raises(DataError, match=r"line 12: .* lies outside of .*data\.outside_paths: true"):
        opened(path)
    assert opened(path, outside_paths=True).num_videos == 11


def test_links_that_stay_inside_and_a_linked_root_are_fine(tmp_path: Path) -> None:
    root = tmp_path / "set"
    path = manifest(root, "path,label", *rows("a", 5), *rows("b", 5))
    (root / "c.mp4").symlink_to(root / "a" / "00.mp4")
    path.write_text(f"{path.read_text()}c.mp4,a\n{root}/b/../d.mp4,a\n")
    (tmp_path / "linked").symlink_to(root)
    assert opened(path).num_videos == 12
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    assert opened(tmp_path / "linked" / "list.csv").num_videos == 11


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([""], "the first line must name the columns path and label, got nothing"),
        (["a/1.mp4,jump"], "the first line must name .* got a/1.mp4,jump"),
        (["path,label", *rows("a", 5)], "has only one class, 'a'"),
        (["path,label,split", *rows("a", 2, "test")], "lists no training videos"),
        (["path,label,split", *rows("a", 3, "train"), *rows("b", 3, "train"),
          *rows("c", 1, "test")], "test has classes that train has no videos of: c"),
        (["path,label", "a.mp4,a", "b.mp4,b"], "no class has videos enough to hold one out"),
    ],
    ids=["empty", "no header", "one class", "no train", "unknown class", "too few"],
)  # fmt: skip
def test_a_manifest_that_cannot_be_used_says_why(
    tmp_path: Path, lines: list[str], problem: str
) -> None:
    with pytest.raises(DataError, match=rf"list\.csv:? .*{problem}"):
        opened(manifest(tmp_path, *lines))


def test_a_header_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the first line names path twice"):
        opened(manifest(tmp_path, "path,label,path", "a.mp4,a,b.mp4"))


def test_what_is_not_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; expected a CSV file\n  path,label,split"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist"):
        opened(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes(b"path,label\n\xe9.mp4,a\n")
    with pytest.raises(DataError, match=r"latin\.csv cannot be read as CSV"):
        opened(tmp_path / "latin.csv")
    path = tmp_path / "gone.csv"
    path.write_text("\n".join(["path,label", *rows("a", 5), *rows("b", 5)]))
    with pytest.raises(DataError, match="none of its 10 videos exists"):
        opened(path)
    with pytest.raises(DataError, match="the source 'csv' needs the CSV file"):
        open_data_set("csv", cache_root=tmp_path)


def test_real_videos_of_several_containers_become_clips(
    tmp_path: Path, make_video: VideoMaker
) -> None:
    lines = ["path,label,split"]
    kinds = [("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx"), ("mkv", "libx264")]
    for split in ("train", "val", "test"):
        for i, (suffix, codec) in enumerate(kinds):
            make_video(tmp_path / f"{split}{i}.{suffix}", codec=codec)
            lines.append(f"{split}{i}.{suffix},{'ab'[i % 2]},{split}")
    path = manifest(tmp_path, *lines)
    config = DataConfig(source="csv", path=str(path), frames=4, size=16, short_side=16)
    store = prepare_store(config, root=tmp_path / "cache", num_processes=0).store
    assert store.skipped == ()
    assert store.split("test", config.view_spec()).labels.tolist() == [0, 0, 1, 1]
    assert store.split("test", config.view_spec()).video(1) == "test2.webm"
