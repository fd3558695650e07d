"""CIFAR-100, SVHN and Food-101, made tiny in the formats in which they are published.

torchvision reads CIFAR-100 and SVHN only if the MD5 sums are those of the published files: here
its tables are given the sums of the test's own files, and its readers run as they are.
"""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import CIFAR100, SVHN

from vpetl_ray.data.catalogue import open_data_set
from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ClipSpec, DataConfig, ViewSpec
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.manifest import fingerprint
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.errors import DataError

SPEC = ClipSpec(frames=1, stride=1, short_side=32)
FOODS = [f"dish_{i:03d}" for i in range(101)]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten train and two test pictures of every class, in the pickles of the Python version."""
    folder = tmp_path / "cifar" / "cifar-100-python"
    folder.mkdir(parents=True)
    sums = {}
    for seed, (name, count) in enumerate((("train", 1000), ("test", 200))):
        content = {
            "filenames": [f"thing_s_{i:06d}.png" for i in range(count)],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": [i % 100 for i in range(count)],
            "coarse_labels": [i % 20 for i in range(count)],
            # Rows of 1024 red, 1024 green, 1024 blue values.
            "data": pictures(count, seed).transpose(0, 3, 1, 2).reshape(count, 3072),
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        sums[name] = md5(folder / name)
    names = {
        "fine_label_names": [f"thing_{i:02d}" for i in range(100)],
        "coarse_label_names": [f"things_{i:02d}" for i in range(20)],
    }
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(folder / "meta")})
    return folder.parent


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty train and twenty test digits; the label of zero is 10 in these files."""
    root = tmp_path / "svhn"
    root.mkdir()
    table = dict(SVHN.split_list)
    for seed, (split, count) in enumerate((("train", 40), ("test", 20))):
        path = root / f"{split}_32x32.mat"
        labels = np.array([1 + i % 10 for i in range(count)], np.uint8)[:, None]
        scipy.io.savemat(path, {"X": pictures(count, seed).transpose(1, 2, 3, 0), "y": labels})
        table[split] = [*SVHN.split_list[split][:2], md5(path)]
    monkeypatch.setattr(SVHN, "split_list", table)
    return root


@pytest.fixture
def food101(tmp_path: Path) -> Path:
    """Five train photos and a test photo of each of 101 dishes; some grey, some portrait."""
    folder = tmp_path / "food" / "food-101"
    (folder / "meta").mkdir(parents=True)
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for number, dish in enumerate(FOODS):
        (folder / "images" / dish).mkdir(parents=True)
        for i in range(6):
            size = (48, 36) if i % 2 else (35, 51)
            image = Image.new("L" if i == 2 else "RGB", size, 40 * i if i == 2 else (number, 9, 0))
            image.save(folder / "images" / dish / f"{100 * number + i}.jpg")
            lists["test" if i == 5 else "train"].setdefault(dish, []).append(
                f"{dish}/{100 * number + i}"
            )
    for split, names in lists.items():
        (folder / "meta" / f"{split}.json").write_text(json.dumps(names))
    return folder.parent


def opened(source: str, root: Path, **options: object) -> DataSet:
    return open_data_set(source, root, cache_root=root / "cache", **options)  # type: ignore[arg-type]


def stored(data_set: DataSet, root: Path, spec: ClipSpec = SPEC, **options: int) -> ClipStore:
    return ClipStore.open(build_clip_store(data_set, spec, root, **{"num_processes": 0, **options}))


@pytest.fixture(params=["cifar100", "svhn", "food101"])
def source(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(request.param)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_cifar_pictures_are_stored_pixel_by_pixel(
    cifar100: Path, tmp_path: Path, num_threads: int
) -> None:
    store = stored(opened("cifar100", cifar100), tmp_path, num_processes=num_threads)
    assert store.classes[7] == "thing_07"
    sizes = {split: seal.num_clips for split, seal in store.manifest.files.items()}
    assert sizes == {"train": 900, "val": 100, "test": 200}
    for split, seed, count in (("train", 0, 1000), ("val", 0, 1000), ("test", 1, 200)):
        clips = store.split(split, ViewSpec(size=32))  # type: ignore[arg-type]
        published = pictures(count, seed)
        for i in range(0, len(clips), 17):
            number = int(clips.video(i).split("#")[1])
            assert clips.labels[i] == number % 100
            np.testing.assert_array_equal(clips.clip(i)[0].numpy(), published[number])


def test_svhn_pictures_are_stored_pixel_by_pixel_and_zero_is_class_0(
    svhn: Path, tmp_path: Path
) -> None:
    store = stored(opened("svhn", svhn, val_share=0.25), tmp_path)
    assert store.classes == tuple("0123456789")
    clips = store.split("test", ViewSpec(size=32))
    assert clips.labels.bincount().tolist() == [2] * 10
    assert clips.video(0) == "test_32x32.mat#9"  # its label in the file is 10
    np.testing.assert_array_equal(clips.clip(0)[0].numpy(), pictures(20, 1)[9])
    assert store.split("val", ViewSpec(size=32)).labels.bincount().tolist() == [1] * 10


def test_food_photos_become_clips_and_damaged_ones_are_skipped_by_name(
    food101: Path, tmp_path: Path
) -> None:
    images = food101 / "food-101" / "images"
    (images / "dish_000" / "5.jpg").unlink()
    whole = (images / "dish_001" / "105.jpg").read_bytes()
    (images / "dish_001" / "105.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "dish_002" / "205.jpg").write_text("not a picture")
    Image.new("RGB", (400, 8)).save(images / "dish_003" / "305.jpg")
    store = stored(opened("food101", food101), tmp_path, num_processes=2)
    skipped = {Path(entry.path).name: entry.reason for entry in store.skipped}
    assert list(skipped) == ["5.jpg", "105.jpg", "205.jpg", "305.jpg"]
    assert skipped["5.jpg"] == "it cannot be read as a picture: no such file or directory"
    assert "truncated" in skipped["105.jpg"]
    assert "cannot identify image" in skipped["205.jpg"]
    assert "400 x 8" in skipped["305.jpg"]
    assert store.classes == tuple(FOODS)
    train = store.split("train", ViewSpec(size=32))
    assert {tuple(train.clip(i).shape) for i in range(4)} == {(1, 32, 43, 3), (1, 47, 32, 3)}
    assert train.batch(range(4), epoch=1, train=True).shape == (4, 1, 32, 32, 3)
    test = store.split("test", ViewSpec(size=32))
    number = test.labels[50]
    np.testing.assert_allclose(test.clip(50).numpy().mean((0, 1, 2)), [number, 9, 0], atol=4)


def test_validation_is_held_out_of_every_class_and_test_is_the_published_one(
    source: tuple[str, Path],
) -> None:
    data_set = opened(*source, val_share=0.2)
    names = {
        split: [data_set.name_of(i) for i in items] for split, items in data_set.splits.items()
    }
    assert len(set().union(*names.values())) == data_set.num_videos
    assert {item.label for item in data_set.splits["val"]} == set(range(len(data_set.classes)))
    assert not any("train" in name for name in names["test"])
    assert not any("test" in name for name in names["train"] + names["val"])
    assert opened(*source, val_share=0.2) == data_set
    assert opened(*source, val_share=0.2, split_seed=1) != data_set
    assert data_set.notes == ()


def test_a_picture_is_a_clip_of_one_frame_or_of_equal_ones(
    source: tuple[str, Path], tmp_path: Path
) -> None:
    name, root = source
    config = DataConfig(source=name, path=str(root), size=16, short_side=16)
    assert config.clip_spec().frames == 1
    data_set = opened(name, root)
    clips = stored(data_set, tmp_path / "one", config.clip_spec()).split("val", config.view_spec())
    more = DataConfig(source=name, path=str(root), size=16, short_side=16, frames=3)
    longer = stored(data_set, tmp_path / "more", more.clip_spec()).split("val", more.view_spec())
    assert clips.clip(2).shape[0] == 1
    assert longer.clip(2).shape[0] == 3
    assert all((frame == clips.clip(2)[0]).all() for frame in longer.clip(2))


def test_a_store_of_pictures_is_found_again_and_names_its_reader(
    svhn: Path, tmp_path: Path
) -> None:
    config = DataConfig(source="svhn", path=str(svhn), size=32, short_side=32)
    first = prepare_store(config, root=tmp_path, num_processes=0)
    again = prepare_store(config, root=tmp_path, num_processes=0)
    assert (first.was_built, again.was_built) == (True, False)
    assert first.store.manifest.decoder.startswith("torchvision ")


def test_the_fingerprint_tells_pictures_of_one_file_apart(svhn: Path) -> None:
    data_set = opened("svhn", svhn)
    names = {data_set.name_of(item) for items in data_set.splits.values() for item in items}
    assert len(names) == 60
    assert fingerprint(data_set, SPEC) != fingerprint(opened("svhn", svhn, split_seed=3), SPEC)


def test_the_published_folder_itself_may_be_given(cifar100: Path, food101: Path) -> None:
    assert opened("cifar100", cifar100 / "cifar-100-python") == opened("cifar100", cifar100)
    assert opened("food101", food101 / "food-101") == opened("food101", food101)


@pytest.mark.parametrize(
    ("source", "file", "expected"),
    [
        ("cifar100", "cifar-100-python/meta", "/cifar-100-python/train"),
        ("svhn", "test_32x32.mat", "/train_32x32.mat"),
        ("food101", "food-101/meta/test.json", "/food-101/images/<class>/<photo>.jpg"),
    ],
    indirect=["source"],
)
def test_what_is_missing_is_named_with_the_expected_tree_and_the_found(
    source: tuple[str, Path], file: str, expected: str
) -> None:
    name, root = source
    (root / file).unlink()
    (root / "all.tar.gz").touch()
    with pytest.raises(DataError) as caught:
        opened(name, root)
    message = str(caught.value)
    assert f"there is no {file} (to be unpacked first: all.tar.gz); expected" in message
    assert f"{root}{expected}" in message
    assert "all.tar.gz" in message.split("found\n")[1]
    with pytest.raises(DataError, match="nowhere does not exist; expected"):
        opened(name, root / "nowhere")


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("cifar100", "cifar-100-python/train"),
        ("cifar100", "cifar-100-python/meta"),
        ("svhn", "test_32x32.mat"),
    ],
    indirect=["source"],
)
def test_files_that_are_not_the_published_ones_are_not_read(
    source: tuple[str, Path], file: str
) -> None:
    name, root = source
    (root / file).write_bytes((root / file).read_bytes() + b"\0")
    with pytest.raises(DataError, match="damaged or not the published ones"):
        opened(name, root)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lists: "{", "Food-101 cannot be read"),
        (lambda lists: json.dumps([1]), "Food-101 cannot be read"),
        (lambda lists: json.dumps({"pie": lists["dish_000"]}), "list different classes"),
    ],
    ids=["no json", "no mapping", "other classes"],
)
def test_food_lists_that_are_none_are_named(
    food101: Path, change: Callable[[dict[str, list[str]]], str], problem: str
) -> None:
    path = food101 / "food-101" / "meta" / "test.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(DataError, match=problem):
        opened("food101", food101)
