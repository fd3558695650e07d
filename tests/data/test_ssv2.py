"""Something-Something v2 in its two published layouts."""

import json
from pathlib import Path

import pytest

from tests.data.conftest import VideoMaker
from vpetl_ray.data.catalogue import open_data_set
from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.errors import DataError

TEMPLATES = [
    "Approaching [something] with your camera",
    "Holding [something] next to [something]",
    "Pushing [something] from left to right",
]
VIDEOS = "20bn-something-something-v2"
OLD, NEW = "something-something-v2-{}.json", "labels/{}.json"


def entry(number: int, template: str) -> dict[str, object]:
    label = template.replace("[something]", "a cup").lower()
    placeholders = ["a cup"] * template.count("[")
    return {"id": str(number), "label": label, "template": template, "placeholders": placeholders}


def write(root: Path, naming: str, name: str, content: object) -> Path:
    path = root / naming.format(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def publish(root: Path, naming: str = OLD, *, train: int = 10, validation: int = 2) -> Path:
    """`train` and `validation` videos of each class as empty files, and test ones without label."""
    names = [template.replace("[", "").replace("]", "") for template in TEMPLATES]
    write(root, naming, "labels", {name: str(2 - i) for i, name in enumerate(names)})
    (root / VIDEOS).mkdir(parents=True)
    number = 1
    for name, count in (("train", train), ("validation", validation)):
        numbers = range(number, number + 3 * count)
        write(root, naming, name, [entry(i, TEMPLATES[i % 3]) for i in numbers])
        number += 3 * count
    write(root, naming, "test", [{"id": str(number)}])
    for i in range(1, number + 1):
        (root / VIDEOS / f"{i}.webm").touch()
    return root


def opened(root: Path, **options: object) -> DataSet:
    return open_data_set("ssv2", root, cache_root=root / "cache", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("naming", [OLD, NEW, "{}.json"], ids=["TwentyBN", "Qualcomm", "flat"])
def test_templates_without_brackets_are_the_classes_in_the_labels_order(
    tmp_path: Path, naming: str
) -> None:
    data_set = opened(publish(tmp_path, naming))
    assert data_set.classes == (
        "Pushing something from left to right",
        "Holding something next to something",
        "Approaching something with your camera",
    )
    for items in data_set.splits.values():
        for item in items:
            assert item.label == 2 - int(Path(item.path).stem) % 3
            assert Path(item.path).is_file()


def test_validation_is_the_test_split_and_val_is_held_out_of_train(tmp_path: Path) -> None:
    data_set = opened(publish(tmp_path), val_share=0.2)
    numbers = {
        split: {int(Path(item.path).stem) for item in items}
        for split, items in data_set.splits.items()
    }
    assert numbers["test"] == set(range(31, 37))
    assert numbers["train"] | numbers["val"] == set(range(1, 31))
    assert sorted(i.label for i in data_set.splits["val"]) == [0, 0, 1, 1, 2, 2]
    assert len(numbers["val"]) == 6
    assert data_set.notes == (
        "the official validation videos are kept for the final figures, and "
        "20% of train is used to choose by",
    )


def test_what_is_missing_is_named_with_the_expected_tree_and_the_found(tmp_path: Path) -> None:
    root = publish(tmp_path)
    (root / VIDEOS).rename(root / "webm")
    with pytest.raises(DataError) as caught:
        opened(root)
    message = str(caught.value)
    assert f"there is no folder {VIDEOS}" in message
    assert f"{root}/{VIDEOS}/<id>.webm" in message
    assert f"{root}/something-something-v2-{{train,validation,labels}}.json" in message
    assert "webm/" in message.split("found\n")[1]
    (root / VIDEOS).mkdir()
    with pytest.raises(DataError, match="has none of the training videos"):
        opened(root)
    (root / OLD.format("validation")).unlink()
    with pytest.raises(DataError, match=r"there is no something-something-v2-validation\.json"):
        opened(root)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("labels", ["a", "b"], "must map class names to the numbers from 0"),
        ("labels", {"a": "0", "b": "2"}, "must map class names to the numbers from 0"),
        ("train", {"a": 1}, "must be a list of videos"),
        ("train", [{"id": "1"}], "entry 1: must have an id and a template, has id"),
        ("train", ["1"], "entry 1: must have an id and a template"),
        ("train", [entry(1, "Eating [something]")], "no class 'Eating something'"),
        ("train", [{**entry(1, TEMPLATES[0]), "id": "../1"}], "the id must be a number"),
        ("validation", [], "lists too few videos"),
    ],
)
def test_a_list_that_is_not_one_is_named(
    tmp_path: Path, name: str, content: object, problem: str
) -> None:
    root = publish(tmp_path)
    path = write(root, OLD, name, content)
    with pytest.raises(DataError, match=f"{path.name}.*{problem}"):
        opened(root)
    path.write_text("{")
    with pytest.raises(DataError, match=f"{path.name} cannot be read as JSON"):
        opened(root)


def test_real_webm_files_become_clips_spread_over_the_video(
    tmp_path: Path, make_video: VideoMaker
) -> None:
    root = publish(tmp_path / "ssv2", NEW, train=2, validation=1)
    sizes = {0: (48, 32), 1: (32, 48), 2: (49, 33)}
    for path in (root / VIDEOS).iterdir():
        number = int(path.stem)
        width, height = sizes[number % 3]
        codec = "libvpx" if number % 2 else "libvpx-vp9"
        make_video(path, num_frames=4 + number, width=width, height=height, codec=codec)
    (root / VIDEOS / "9.webm").unlink()
    config = DataConfig(source="ssv2", path=str(root), size=16, max_skipped_share=0.2)
    assert config.view_spec().flip == 0
    store = prepare_store(config, root=tmp_path / "cache", num_processes=0).store
    assert store.manifest.clip_spec.sampling == "uniform"
    assert [entry.path for entry in store.skipped] == [f"{VIDEOS}/9.webm"]
    assert {split: seal.num_clips for split, seal in store.manifest.files.items()} == {
        "train": 3,
        "val": 3,
        "test": 2,
    }
    clips = store.split("test", config.view_spec())
    assert clips.batch([0, 1], epoch=1, train=False).shape == (2, 8, 16, 16, 3)
