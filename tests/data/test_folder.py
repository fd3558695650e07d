"""Folders of videos: the layouts that are taken, and what is said about the others."""

from pathlib import Path

import pytest

from vpetl_ray.data.catalogue import open_data_set
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.folder import list_folder
from vpetl_ray.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def numbered(folder: str, count: int) -> list[str]:
    return [f"{folder}/{i:02d}.mp4" for i in range(count)]


def opened(root: Path, **options: object) -> DataSet:
    return open_data_set("folder", root, cache_root=root / "cache", **options)  # type: ignore[arg-type]


def names(data_set: DataSet, split: str) -> list[str]:
    items = data_set.splits[split]  # type: ignore[index]
    return [f"{data_set.classes[i.label]}:{Path(i.path).relative_to(data_set.root)}" for i in items]


def test_given_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/1.mp4", "train/a/2.AVI", "val/a/3.webm", "test/b/4.mkv")
    data_set = opened(tmp_path)
    assert data_set.classes == ("a", "b")
    assert names(data_set, "train") == ["a:train/a/2.AVI", "b:train/b/1.mp4"]
    assert names(data_set, "val") == ["a:val/a/3.webm"]
    assert names(data_set, "test") == ["b:test/b/4.mkv"]
    assert data_set.notes == ()


def test_other_files_hidden_ones_and_empty_classes_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, *numbered("a", 5), *numbered("b", 5), "a/list.txt", "a/.x.mp4", ".git/x.mp4")
    (tmp_path / "empty").mkdir()
    data_set = opened(tmp_path)
    assert data_set.classes == ("a", "b")
    assert data_set.num_videos == 10


@pytest.mark.parametrize("layout", ["train and test", "train and val", "train", "flat"])
def test_what_a_layout_leaves_out_is_held_out_of_every_class(tmp_path: Path, layout: str) -> None:
    inside = "" if layout == "flat" else "train/"
    touch(tmp_path, *numbered(f"{inside}a", 20), *numbered(f"{inside}b", 10))
    given = {"train and test": "test", "train and val": "val"}.get(layout)
    if given:
        touch(tmp_path, f"{given}/a/x.mp4", f"{given}/b/x.mp4")
    data_set = opened(tmp_path, val_share=0.2)
    splits = {split: names(data_set, split) for split in ("train", "val", "test")}
    assert sum(len(found) for found in splits.values()) == 30 + 2 * bool(given)
    assert len(set().union(*map(set, splits.values()))) == 30 + 2 * bool(given)
    held = [found for split, found in splits.items() if split != "train"]
    for found in held:
        assert {name.split(":")[0] for name in found} == {"a", "b"}
    if given:
        assert splits["test"] == [f"a:{given}/a/x.mp4", f"b:{given}/b/x.mp4"]
        assert [name[0] for name in splits["val"]] == ["a"] * 4 + ["b"] * 2
    assert bool(data_set.notes) == (layout != "train and test")


def test_what_is_held_out_follows_the_seed_alone(tmp_path: Path) -> None:
    touch(tmp_path, *numbered("a", 20), *numbered("b", 20))
    first = opened(tmp_path)
    assert opened(tmp_path) == first
    assert opened(tmp_path, split_seed=1).splits["val"] != first.splits["val"]
    touch(tmp_path, *numbered("c", 20))  # another class does not move the videos of this one
    assert names(opened(tmp_path), "val")[:2] == names(first, "val")[:2]


def test_the_only_video_of_a_class_is_trained_on(tmp_path: Path) -> None:
    touch(tmp_path, *numbered("a", 10), "b/only.mp4")
    assert "b:b/only.mp4" in names(opened(tmp_path), "train")


@pytest.mark.parametrize(
    ("files", "problem", "found"),
    [
        ([], "no class folder with a video", "(nothing)"),
        (["1.mp4", "2.mp4"], "no class folder with a video", "1.mp4"),
        (["train/1.mp4", "val/2.mp4"], "no class folder with a video", "1.mp4"),
        (["val/a/1.mp4", "test/a/1.mp4"], "there is no train folder", "val/"),
        (numbered("a", 5), "only one class, 'a'", "a/"),
        (["train/a/1.mp4", "train/b/2.mp4", "val/a/1.mp4"], "the val split has no videos", "b/"),
        (["a/1.txt", "b/1.jpg"], "no class folder with a video", "1.jpg"),
    ],
    ids=["empty", "no folders", "no classes", "no train", "one class", "too few", "no videos"],
)
def test_another_layout_is_an_error_that_shows_the_expected_and_the_found(
    tmp_path: Path, files: list[str], problem: str, found: str
) -> None:
    with pytest.raises(DataError) as caught:
        opened(touch(tmp_path, *files))
    message = str(caught.value)
    assert problem in message
    assert f"{tmp_path}/{{train,val,test}}/<class>/<video>.mp4" in message
    assert found in message.split("found\n")[1]


def test_classes_that_train_does_not_have_are_named(tmp_path: Path) -> None:
    touch(tmp_path, *numbered("train/a", 3), *numbered("train/b", 3), "test/c/1.mp4")
    with pytest.raises(DataError, match="test has classes that train has no videos of: c"):
        opened(tmp_path)


def test_a_root_that_is_missing_or_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"a\.mp4 is not a folder"):
        opened(touch(tmp_path, "a.mp4") / "a.mp4")


def test_a_source_by_another_name_or_without_its_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"must be one of demo, folder, .*, got 'foldr' \(did you mean"
    ):
        open_data_set("foldr", tmp_path, cache_root=tmp_path)
    with pytest.raises(DataError, match=r"data\.path: the source 'folder' needs"):
        open_data_set("folder", cache_root=tmp_path)


def test_classes_of_one_or_two_videos_stay_in_train_and_that_is_said(tmp_path: Path) -> None:
    for label, count in (("many", 9), ("two", 2), ("one", 1)):
        (tmp_path / label).mkdir()
        for i in range(count):
            (tmp_path / label / f"{i}.mp4").touch()
    data_set = list_folder("folder", tmp_path, val_share=0.1, split_seed=0)
    labels = {split: [item.label for item in items] for split, items in data_set.splits.items()}
    assert labels == {"train": [0] * 7 + [1, 2], "val": [0], "test": [0, 2]}
    assert data_set.notes[1] == (
        "classes with too few videos to hold one out: 2 of 3 for val, 1 of 3 for test"
    )


def test_a_folder_beside_the_splits_is_named(tmp_path: Path) -> None:
    for split in ("train", "validate"):
        for label in ("jump", "sit"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(4):
                (tmp_path / split / label / f"{i}.mp4").touch()
    data_set = list_folder("folder", tmp_path, val_share=0.1, split_seed=0)
    assert data_set.notes[-1] == "only train, val and test are read, not validate"
