"""What training sees of stored clips: the bytes themselves, or reproducible augmentations."""

from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests.data.conftest import VideoMaker, frame_value
from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ClipSpec, DataConfig, ViewSpec
from vpetl_ray.data.data_set import SPLITS, DataSet, Split, VideoItem
from vpetl_ray.data.decode import sample_indices
from vpetl_ray.data.stored_clips import StoredClips
from vpetl_ray.data.transforms import (
    centre_crop,
    crop_view,
    draw_generator,
    random_crop,
    train_view,
)

PLAIN = ViewSpec(size=16, train_crop="centre", flip=0)
AUGMENTED = ViewSpec(size=16, train_crop="random", flip=0.5)


@pytest.fixture
def noise_store(data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipStore:
    """A store of noise 20 x 28, so that no two crops look the same."""

    def decode_noise(path: str, spec: ClipSpec, *, num_segments: int) -> np.ndarray:
        rng = np.random.default_rng(len(path) + sum(path.encode()))
        return rng.integers(0, 256, (spec.frames, 20, 28, 3), dtype=np.uint8)

    monkeypatch.setattr("vpetl_ray.data.decode.decode_clip", decode_noise)
    spec = ClipSpec(frames=4, short_side=20)
    return ClipStore.open(build_clip_store(data_set, spec, tmp_path, num_processes=0))


@pytest.fixture
def square_store(data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipStore:
    """A store of noise 16 x 16, the size of the views."""

    def decode_noise(path: str, spec: ClipSpec, *, num_segments: int) -> np.ndarray:
        rng = np.random.default_rng(sum(path.encode()))
        return rng.integers(0, 256, (spec.frames, 16, 16, 3), dtype=np.uint8)

    monkeypatch.setattr("vpetl_ray.data.decode.decode_clip", decode_noise)
    spec = ClipSpec(frames=4, short_side=16)
    return ClipStore.open(build_clip_store(data_set, spec, tmp_path, num_processes=0))


def test_a_fixed_view_of_the_stored_size_is_the_stored_bytes(square_store: ClipStore) -> None:
    clips = square_store.split("train", PLAIN)
    assert clips.train_views == 1
    batch = clips.batch(torch.tensor([5, 0, 5]), epoch=3, train=True)
    assert batch.dtype == torch.uint8
    assert batch.shape == (3, 4, 16, 16, 3)
    assert batch.is_contiguous()
    for row, index in enumerate([5, 0, 5]):
        assert torch.equal(batch[row], clips.clip(index))
    batch.zero_()  # a batch is the caller's own
    assert clips.clip(5).any()


def test_the_plain_path_and_the_general_one_agree(square_store: ClipStore) -> None:
    clips = square_store.split("train", PLAIN)
    plain = clips.batch(range(6), epoch=1, train=True)
    clips._is_plain = False
    assert torch.equal(clips.batch(range(6), epoch=1, train=True), plain)


def test_evaluation_sees_the_centre(noise_store: ClipStore) -> None:
    for view in (PLAIN, AUGMENTED):
        clips = noise_store.split("val", view)
        assert clips.train_views == 1
        for train in (False, True):
            batch = clips.batch([1], epoch=2, train=train)
            assert torch.equal(batch[0], clips.clip(1)[:, 2:18, 6:22])


@pytest.fixture
def segment_store(data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipStore:
    """A store of noise 20 x 28 with two segments of each test video besides the clip."""

    def decode_noise(path: str, spec: ClipSpec, *, num_segments: int) -> np.ndarray:
        rng = np.random.default_rng(sum(path.encode()))
        num_clips = 1 + num_segments if num_segments > 1 else 1
        return rng.integers(0, 256, (num_clips * spec.frames, 20, 28, 3), dtype=np.uint8)

    monkeypatch.setattr("vpetl_ray.data.decode.decode_clip", decode_noise)
    spec = ClipSpec(frames=4, short_side=20, test_segments=2)
    return ClipStore.open(build_clip_store(data_set, spec, tmp_path, num_processes=0))


def test_views_are_segments_times_crops_along_the_longer_side(segment_store: ClipStore) -> None:
    clips = segment_store.split("test", AUGMENTED)
    assert clips.num_views == 6
    whole = clips._file.clip(1)
    assert whole.shape == (12, 20, 28, 3)
    for number in range(6):
        frames, left = 4 * (1 + number // 3), (0, 6, 12)[number % 3]
        seen = clips.batch_view([3, 1], number)
        assert seen.shape == (2, 4, 16, 16, 3)
        assert torch.equal(seen[1], whole[frames : frames + 4, 2:18, left : left + 16])
    for number in (-1, 6):
        with pytest.raises(IndexError, match="there are 6 views"):
            clips.batch_view([0], number)


def test_segments_change_nothing_where_one_view_is_asked_for(segment_store: ClipStore) -> None:
    clips = segment_store.split("test", PLAIN)
    assert clips.clip(1).shape == (4, 20, 28, 3)
    assert torch.equal(clips.clip(1), clips._file.clip(1)[:4])
    assert torch.equal(clips.batch([1], epoch=1, train=False)[0], clips.clip(1)[:, 2:18, 6:22])
    for split in ("train", "val"):
        other = segment_store.split(split, PLAIN)
        assert other._file.clip(0).shape == (4, 20, 28, 3)
        assert other.num_views == 3


def test_without_segments_the_views_are_crops_of_the_clip(noise_store: ClipStore) -> None:
    clips = noise_store.split("test", PLAIN)
    assert clips.num_views == 3
    middle = clips.batch([0, 1], epoch=1, train=False)
    assert torch.equal(clips.batch_view([0, 1], 1), middle)
    one = noise_store.split("test", ViewSpec(size=16, test_crops=1))
    assert one.num_views == 1
    assert torch.equal(one.batch_view([0, 1], 0), middle)


def test_crops_of_portraits_lie_along_their_height() -> None:
    clip = torch.arange(28 * 20).view(1, 28, 20, 1).expand(2, 28, 20, 3)
    for number, top in enumerate((0, 4, 8, 12)):
        seen = crop_view(clip, PLAIN, number, 4)
        assert torch.equal(seen, clip[:, top : top + 16, 2:18])


def test_a_clip_that_is_all_in_view_has_one_crop(square_store: ClipStore) -> None:
    clips = square_store.split("test", PLAIN)
    assert clips.num_views == 1
    assert torch.equal(clips.batch_view([2], 0), clips.batch([2], epoch=1, train=False))


def test_augmentation_follows_seed_epoch_and_index_alone(noise_store: ClipStore) -> None:
    def batch(indices: list[int], *, epoch: int = 1, seed: int = 0) -> torch.Tensor:
        return noise_store.split("train", AUGMENTED, seed=seed).batch(
            indices, epoch=epoch, train=True
        )

    first = batch([0, 1, 2, 3, 4, 5])
    assert first.shape == (6, 4, 16, 16, 3)
    assert torch.equal(first, batch([0, 1, 2, 3, 4, 5]))
    assert torch.equal(first[[4, 2]], batch([4, 2]))  # whatever else is in the batch
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(first, batch([0, 1, 2, 3, 4, 5]))
    for other in (batch(list(range(6)), epoch=2), batch(list(range(6)), seed=1)):
        assert not (first == other).flatten(1).all(1).any()


def test_only_training_is_augmented(noise_store: ClipStore) -> None:
    clips = noise_store.split("train", AUGMENTED)
    assert clips.train_views is None
    evaluated = clips.batch([0, 1], epoch=1, train=False)
    assert torch.equal(evaluated, clips.batch([0, 1], epoch=2, train=False))
    assert not torch.equal(evaluated, clips.batch([0, 1], epoch=1, train=True))


def test_a_flip_mirrors_every_frame_of_about_half_of_the_clips(noise_store: ClipStore) -> None:
    clip = noise_store.split("train", PLAIN).clip(0)
    view = ViewSpec(size=16, train_crop="centre", flip=0.5)
    straight = train_view(
        clip, ViewSpec(size=16, train_crop="centre", flip=0), draw_generator(0, 1, 0)
    )
    flipped = 0
    for index in range(200):
        seen = train_view(clip, view, draw_generator(0, 1, index))
        is_flipped = torch.equal(seen, straight.flip(2))
        assert is_flipped or torch.equal(seen, straight)
        flipped += is_flipped
    assert 70 < flipped < 130


def test_random_crops_lie_inside_and_vary_as_stated() -> None:
    crops = [random_crop(256, 340, draw_generator(0, 1, i)) for i in range(500)]
    for top, left, height, width in crops:
        assert 0 <= top <= top + height <= 256
        assert 0 <= left <= left + width <= 340
        assert 0.07 < height * width / (256 * 340) <= 1.0
        assert 0.7 < width / height < 1.4
    assert len(set(crops)) > 490


def test_a_crop_that_never_fits_is_the_middle_square() -> None:
    assert random_crop(10, 1000, draw_generator(0, 1, 0)) == centre_crop(10, 1000, 10)


def test_ids_tell_apart_what_differs_in_pixels(noise_store: ClipStore) -> None:
    def ids(*clips: StoredClips) -> int:
        return len({c.id for c in clips})

    split = noise_store.split
    assert ids(split("train", PLAIN), split("train", PLAIN, seed=1)) == 1
    assert ids(split("val", PLAIN), split("val", AUGMENTED, seed=1)) == 1
    assert (
        ids(
            split("train", PLAIN),
            split("val", PLAIN),
            split("train", ViewSpec(size=12, train_crop="centre", flip=0)),
            split("train", AUGMENTED),
            split("train", AUGMENTED, seed=1),
        )
        == 5
    )


SIZES = {"landscape": (56, 32), "portrait": (32, 56), "square": (40, 40)}


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("sampling", ["dense", "uniform"])
def test_the_twelve_views_of_a_real_video(
    tmp_path: Path, make_video: VideoMaker, shape: str, sampling: Literal["dense", "uniform"]
) -> None:
    width, height = SIZES[shape]
    paths = [
        make_video(tmp_path / f"{n}.mp4", num_frames=n, width=width, height=height)
        for n in (60, 3)  # the second is shorter than the clip
    ]
    items = tuple(VideoItem(path=str(path), label=0) for path in paths)
    every: dict[Split, tuple[VideoItem, ...]] = dict.fromkeys(SPLITS, items)
    data_set = DataSet(name="folder", root=tmp_path, classes=("a",), splits=every)
    config = DataConfig(
        source="folder", frames=4, size=28, short_side=32, sampling=sampling
    ).multi_view()
    path = build_clip_store(data_set, config.clip_spec(), tmp_path / "cache", num_processes=0)
    clips = ClipStore.open(path).split("test", config.view_spec())
    assert clips.num_views == 12
    for index, num_frames in enumerate((60, 3)):
        for segment in range(4):
            moment = Fraction(2 * segment + 1, 8)
            wanted = sample_indices(num_frames, config.clip_spec(), moment)
            views = [clips.batch_view([index], 3 * segment + crop)[0] for crop in range(3)]
            assert all(view.shape == (4, 28, 28, 3) for view in views)
            for view in views:  # the right half of a frame tells its number, see the conftest
                greys = view[:, 10:18, -4:].float().mean((1, 2, 3))
                expected = torch.tensor([float(frame_value(i)) for i in wanted])
                if shape != "landscape" or view is views[-1]:
                    assert torch.allclose(greys, expected, atol=6), (segment, greys, expected)
            whole = clips.segment(index, segment)
            ends = (whole[:, 2:30, :28], whole[:, 2:30, -28:])
            if shape == "portrait":
                ends = (whole[:, :28, 2:30], whole[:, -28:, 2:30])
            if shape != "square":
                assert torch.equal(views[0], ends[0])
                assert torch.equal(views[2], ends[1])
