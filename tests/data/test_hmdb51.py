"""HMDB51 in its published layout: the lists decide, and what is wrong is shown."""

import shutil
from pathlib import Path

import pytest

from tests.data.conftest import VideoMaker
from vpetl_ray.data.catalogue import open_data_set
from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.errors import DataError

# fmt: off
CLASSES = [
    "brush_hair", "cartwheel", "catch", "chew", "clap", "climb", "climb_stairs", "dive",
    "draw_sword", "dribble", "drink", "eat", "fall_floor", "fencing", "flic_flac", "golf",
    "handstand", "hit", "hug", "jump", "kick", "kick_ball", "kiss", "laugh", "pick", "pour",
    "pullup", "punch", "push", "pushup", "ride_bike", "ride_horse", "run", "shake_hands",
    "shoot_ball", "shoot_bow", "shoot_gun", "sit", "situp", "smile", "smoke", "somersault",
    "stand", "swing_baseball", "sword", "sword_exercise", "talk", "throw", "turn", "walk", "wave",
]
# fmt: on
LISTS = "testTrainMulti_7030_splits"


def name_of(label: str, film: str, scene: int) -> str:
    return f"{film}_{label}_u_nm_np1_ba_goo_{scene}.avi"


def write_list(root: Path, label: str, split: int, uses: dict[str, int]) -> None:
    path = root / LISTS / f"{label}_test_split{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {use} \n" for name, use in uses.items()))  # the space is real


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """All classes, empty files: seven train scenes of three films, two of test, one unused."""
    root = tmp_path / "hmdb51"
    for label in CLASSES:
        uses = {name_of(label, f"Film_{i // 3}", i % 3): 1 for i in range(7)}
        uses |= {name_of(label, "Test!(1)", 0): 2, name_of(label, "Test!(1)", 1): 2}
        uses |= {name_of(label, "Unused", 0): 0}
        (root / label).mkdir(parents=True)
        for name in uses:
            (root / label / name).touch()
        write_list(root, label, 1, uses)
        write_list(root, label, 2, {name: (2, 2, 1)[use] for name, use in uses.items()})
    return root


def opened(root: Path, **options: object) -> DataSet:
    return open_data_set("hmdb51", root, cache_root=root / "cache", **options)  # type: ignore[arg-type]


def films(data_set: DataSet, split: str) -> set[tuple[int, str]]:
    items = data_set.splits[split]  # type: ignore[index]
    return {(i.label, Path(i.path).name.split(f"_{CLASSES[i.label]}_")[0]) for i in items}


def test_the_lists_decide_what_is_train_and_test(root: Path) -> None:
    data_set = opened(root)
    assert data_set.classes == tuple(CLASSES)
    assert {split: len(items) for split, items in data_set.splits.items()} == {
        "train": 51 * 6,
        "val": 51,
        "test": 51 * 2,
    }
    assert films(data_set, "test") == {(label, "Test!(1)") for label in range(51)}
    assert data_set.notes == ()
    assert all(Path(item.path).is_file() for item in data_set.splits["train"])
    assert {Path(item.path).parent.name for item in data_set.splits["val"]} == set(CLASSES)


def test_scenes_of_one_film_are_never_on_both_sides(root: Path) -> None:
    for share in (0.1, 0.3, 0.45):
        data_set = opened(root, val_share=share)
        assert not films(data_set, "train") & films(data_set, "val")
        assert len(films(data_set, "train") | films(data_set, "val")) == 3 * 51


def test_another_split_is_another_list_and_another_data_set(root: Path) -> None:
    first, second = opened(root), opened(root, split=2)
    assert films(second, "train") | films(second, "val") == {(i, "Test!(1)") for i in range(51)}
    assert first.name != second.name
    with pytest.raises(DataError, match=r"no lists <class>_test_split3\.txt"):
        opened(root, split=3)


@pytest.mark.parametrize("folder", ["videos", "hmdb51_org"])
def test_class_folders_may_lie_one_deeper(root: Path, folder: str) -> None:
    (root / folder).mkdir()
    for label in CLASSES:
        (root / label).rename(root / folder / label)
    assert Path(opened(root).splits["test"][0].path).parent.parent.name == folder


def test_a_part_of_the_classes_is_taken_and_said(root: Path) -> None:
    for label in CLASSES[3:]:
        shutil.rmtree(root / label)
        for split in (1, 2):
            (root / LISTS / f"{label}_test_split{split}.txt").unlink()
    data_set = opened(root)
    assert data_set.classes == tuple(CLASSES[:3])
    assert data_set.notes == ("only 3 of HMDB51's 51 classes are here",)


def test_what_is_missing_is_named_with_the_expected_tree_and_the_found(root: Path) -> None:
    (root / "wave.rar").touch()
    shutil.rmtree(root / "wave")
    with pytest.raises(DataError) as caught:
        opened(root)
    message = str(caught.value)
    assert "there is no folder for wave (to be unpacked first: wave.rar)" in message
    assert f"{root}/<class>/<video>.avi" in message
    assert f"{root}/{LISTS}/<class>_test_split<1|2|3>.txt" in message
    assert "brush_hair/" in message.split("found\n")[1]
    (root / LISTS).rename(root / "splits")
    with pytest.raises(DataError, match=f"there is no folder {LISTS}"):
        opened(root)
    with pytest.raises(DataError, match=r"nowhere does not exist; expected"):
        opened(root / "nowhere")


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "../a.avi 1", "a.avi 1 train"])
def test_a_line_that_is_not_a_file_and_its_use_is_named(root: Path, line: str) -> None:
    path = root / LISTS / "wave_test_split1.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match=r"wave_test_split1\.txt, line 11: must be <file> <0|1|2>"):
        opened(root)


def test_real_avi_files_become_clips_and_a_missing_one_is_skipped_by_name(
    tmp_path: Path, make_video: VideoMaker
) -> None:
    root = tmp_path / "hmdb51"
    for label, size in (("walk", (48, 32)), ("wave", (32, 48))):
        names = [name_of(label, f"#{i}_[Film]!_(1)_&", 0) for i in range(4)]  # as some are named
        for i, name in enumerate(names):
            codec = "mpeg4" if i % 2 else "mjpeg"
            pix_fmt = "yuv420p" if i % 2 else "yuvj420p"
            path = root / label / name
            make_video(path, width=size[0], height=size[1], codec=codec, pix_fmt=pix_fmt)
        write_list(root, label, 1, dict(zip(names, (1, 1, 1, 2), strict=True)))
    short = name_of("walk", "#3_[Film]!_(1)_&", 0)
    make_video(root / "walk" / short, num_frames=5, codec="mpeg4")
    with open(root / LISTS / "walk_test_split1.txt", "a") as file:
        file.write("gone.avi 2 \n")
    config = DataConfig(
        source="hmdb51", path=str(root), size=16, short_side=16, max_skipped_share=0.2
    )
    store = prepare_store(config, root=tmp_path / "cache", num_processes=0).store
    assert store.manifest.clip_spec.frames == 8
    assert store.manifest.clip_spec.stride == 2
    assert [entry.path for entry in store.skipped] == ["walk/gone.avi"]
    clips = store.split("test", config.view_spec())
    assert clips.labels.tolist() == [0, 1]
    assert clips.batch([0, 1], epoch=1, train=False).shape == (2, 8, 16, 16, 3)
