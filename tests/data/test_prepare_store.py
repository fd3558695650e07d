"""From the data section of a spec to an open store."""

from pathlib import Path

import pytest

from tests.data.conftest import VideoMaker
from vpetl_ray.data.config import ClipSpec, DataConfig, ViewSpec, cache_root
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.errors import DataError


@pytest.mark.parametrize(
    ("config", "clip", "view"),
    [
        (
            DataConfig(source="demo"),
            ClipSpec(frames=8, stride=1, short_side=32),
            ViewSpec(size=32, views=4, train_crop="centre", flip=0),
        ),
        (
            DataConfig(source="folder"),
            ClipSpec(frames=8, stride=2, short_side=256),
            ViewSpec(size=224, views=4, train_crop="random", flip=0.5),
        ),
        (
            DataConfig(source="folder", frames=16, size=112, flip=False, sampling="uniform"),
            ClipSpec(frames=16, stride=2, short_side=128, sampling="uniform"),
            ViewSpec(size=112, views=4, train_crop="random", flip=0),
        ),
        (
            DataConfig(source="hmdb51"),
            ClipSpec(frames=8, stride=2, short_side=256),
            ViewSpec(size=224, views=4, train_crop="random", flip=0.5),
        ),
        (
            DataConfig(source="ssv2"),
            ClipSpec(frames=8, stride=2, short_side=256, sampling="uniform"),
            ViewSpec(size=224, views=4, train_crop="random", flip=0),
        ),
        (
            DataConfig(source="demo", short_side=40, flip=True),
            ClipSpec(frames=8, stride=1, short_side=40),
            ViewSpec(size=32, views=4, train_crop="centre", flip=0.5),
        ),
    ],
    ids=["demo", "folder", "some given", "hmdb51", "ssv2", "demo, some given"],
)
def test_what_is_not_given_is_the_sources_default(
    config: DataConfig, clip: ClipSpec, view: ViewSpec
) -> None:
    assert config.clip_spec() == clip
    assert config.view_spec() == view


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 0}, "data.frames: must be a whole number from 1 to 512, got 0"),
        ({"size": 64, "short_side": 32}, r"data.short_side: must be at least data.size \(64\)"),
        ({"flip": 1.5}, "data.flip: must be a probability from 0 to 1, got 1.5"),
        ({"sampling": "even"}, "data.sampling: must be one of dense, uniform, got 'even'"),
        ({"val_share": 0.7}, "data.val_share: must be between 0 and 0.5"),
        ({"max_skipped_share": 1}, "data.max_skipped_share: must be from 0 to below 1"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataConfig(source="folder", **values).clip_spec()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"source": "folder", "split": 2},
            "data.split: is for hmdb51 alone, leave it out with 'fo",
        ),
        ({"source": "hmdb51", "split": 4}, "data.split: must be a whole number from 1 to 3, got 4"),
        (
            {"source": "svhn", "outside_paths": True},
            "data.outside_paths: is for folder, csv, hmdb51, ssv2 alone",
        ),
        ({"source": "sv2"}, r"data.source: must be one of .*did you mean 'ssv2'"),
    ],
)
def test_options_of_other_sources_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataConfig(**values)  # type: ignore[arg-type]


def test_final_figures_take_four_segments_unless_the_user_says_how_many() -> None:
    assert DataConfig(source="folder").clip_spec().test_segments == 1
    assert DataConfig(source="folder").multi_view().clip_spec().test_segments == 4
    assert DataConfig(source="demo").multi_view().clip_spec().test_segments == 1
    few = DataConfig(source="folder", test_segments=2, test_crops=1).multi_view()
    assert few.clip_spec().test_segments == 2
    assert few.view_spec().test_crops == 1
    assert DataConfig(source="svhn").multi_view().clip_spec().test_segments == 1
    with pytest.raises(DataError, match=r"data\.test_segments: must be a whole number from 1"):
        DataConfig(source="folder", test_segments=0).clip_spec()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("VPETL_CACHE", raising=False)
    assert cache_root() == Path("/x/vpetl_ray")
    monkeypatch.setenv("VPETL_CACHE", "/own")
    assert cache_root() == Path("/own")
    monkeypatch.delenv("VPETL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "vpetl_ray"


def config(videos: Path) -> DataConfig:
    return DataConfig(source="folder", path=str(videos), frames=4, size=16, short_side=16)


def test_a_store_is_built_once_and_then_found(videos: Path, tmp_path: Path) -> None:
    first = prepare_store(config(videos), root=tmp_path / "cache", num_processes=0)
    again = prepare_store(config(videos), root=tmp_path / "cache", num_processes=0)
    assert (first.was_built, again.was_built) == (True, False)
    assert first.store.path == again.store.path


@pytest.mark.parametrize("name", ["train.arrow", "manifest.json"])
def test_a_damaged_store_is_built_again(videos: Path, tmp_path: Path, name: str) -> None:
    path = prepare_store(config(videos), root=tmp_path / "cache", num_processes=0).store.path
    whole = (path / name).read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    (path / name).write_bytes(damaged)
    again = prepare_store(config(videos), root=tmp_path / "cache", num_processes=0)
    assert again.was_built
    assert (path / name).read_bytes() == whole


def test_a_folder_of_strange_files_gives_clips_and_names(
    videos: Path, tmp_path: Path, make_video: VideoMaker
) -> None:
    train = videos / "train" / "sit"
    (train / "text.mp4").write_text("text")
    (train / "empty.mp4").touch()
    make_video(train / "short.mp4", num_frames=3)
    make_video(train / "portrait.mp4", width=32, height=48)
    make_video(train / "odd.mp4", width=49, height=33, pix_fmt="yuv444p")
    strict = config(videos)
    with pytest.raises(DataError, match="2 of 17 videos cannot be read"):
        prepare_store(strict, root=tmp_path / "cache", num_processes=1)
    lenient = DataConfig(**{**vars(strict), "max_skipped_share": 0.2})
    store = prepare_store(lenient, root=tmp_path / "cache", num_processes=0).store
    assert [entry.path for entry in store.skipped] == [
        "train/sit/empty.mp4",
        "train/sit/text.mp4",
    ]
    view = ViewSpec(size=16)
    assert store.split("train", view).batch(range(9), epoch=1, train=True).shape[0] == 9


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_is_drawn_decoded_and_split(tmp_path: Path) -> None:
    demo = DataConfig()
    store = prepare_store(demo, root=tmp_path).store
    assert store.skipped == ()
    sizes = {split: seal.num_clips for split, seal in store.manifest.files.items()}
    assert sizes == {"train": 900, "val": 420, "test": 960}
    clips = store.split("train", demo.view_spec())
    assert clips.train_views == 1
    assert clips.batch([0, 899], epoch=1, train=True).shape == (2, 8, 32, 32, 3)
    assert clips.labels.bincount().tolist() == [80] * 12
