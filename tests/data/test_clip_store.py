"""A clip store holds what was decoded, whole, once, and notices when it does not any more."""

import os
import pickle
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.conftest import VideoMaker, one_split
from vpetl_ray.data import clip_build
from vpetl_ray.data.clip_build import build_clip_store, discard_damaged_store
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ClipSpec, ViewSpec
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.decode import decode_clip
from vpetl_ray.data.folder import list_folder
from vpetl_ray.data.manifest import fingerprint
from vpetl_ray.data.store_files import BuildProgress
from vpetl_ray.errors import DataError

SPEC = ClipSpec(frames=4, stride=1, short_side=16)
VIEW = ViewSpec(size=16, train_crop="centre", flip=0)


def build(data_set: DataSet, root: Path, spec: ClipSpec = SPEC, **options: object) -> ClipStore:
    options = {"num_processes": 0, **options}
    return ClipStore.open(build_clip_store(data_set, spec, root, **options))  # type: ignore[arg-type]


def entries(root: Path) -> list[str]:
    """What a build left under the cache folder, locks apart."""
    return sorted(p.name for p in (root / "clips").glob("*") if not p.name.endswith(".lock"))


def test_every_clip_is_the_decoded_one_in_the_data_sets_order(
    data_set: DataSet, tmp_path: Path
) -> None:
    store = build(data_set, tmp_path)
    assert store.classes == ("jump", "sit")
    assert store.num_clips == data_set.num_videos == 12
    for split, items in data_set.splits.items():
        clips = store.split(split, VIEW)
        assert clips.labels.tolist() == [item.label for item in items]
        for index, item in enumerate(items):
            assert clips.video(index) == os.path.relpath(item.path, data_set.root)
            np.testing.assert_array_equal(clips.clip(index).numpy(), decode_clip(item.path, SPEC))


def test_clips_of_several_sizes_and_record_batches_live_in_one_file(
    tmp_path: Path, make_video: VideoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpetl_ray.data.clip_file._BATCH_BYTES", 10_000)
    sizes = [(48, 32), (32, 48), (50, 34), (24, 24)] * 2
    paths = [make_video(tmp_path / f"{i}.mp4", width=w, height=h) for i, (w, h) in enumerate(sizes)]
    clips = build(one_split(tmp_path, *paths), tmp_path / "cache").split("train", VIEW)
    shapes = [tuple(clips.clip(i).shape[1:3]) for i in range(8)]
    assert shapes == [(16, 24), (24, 16), (16, 24), (16, 16)] * 2
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(clips.clip(i).numpy(), decode_clip(str(path), SPEC))
    assert clips.batch(range(8), epoch=1, train=True).shape == (8, 4, 16, 16, 3)


def test_a_clip_is_a_view_of_the_mapped_file(data_set: DataSet, tmp_path: Path) -> None:
    store = build(data_set, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pointers = [store.split("train", VIEW).clip(i).data_ptr() for i in range(6)]
    path = str(store.path / "train.arrow")
    maps = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(path)]  # fmt: skip
    ranges = [tuple(int(end, 16) for end in span.split("-")) for span in maps]
    assert all(any(low <= p < high for low, high in ranges) for p in pointers)


def test_segments_are_stored_of_test_videos_alone(data_set: DataSet, tmp_path: Path) -> None:
    several = replace(SPEC, test_segments=3)
    assert fingerprint(data_set, several) != fingerprint(data_set, SPEC)
    one = build(data_set, tmp_path).split("test", VIEW)
    store = build(data_set, tmp_path, several)
    store.verify()
    clips = pickle.loads(pickle.dumps(store.split("test", VIEW)))
    assert clips.num_views == 9
    assert store.split("train", VIEW).num_views == 3
    for index, item in enumerate(data_set.splits["test"]):
        assert torch.equal(clips.clip(index), one.clip(index))
        decoded = decode_clip(item.path, several, num_segments=3)
        for segment in range(3):
            stored = clips.segment(index, segment).numpy()
            np.testing.assert_array_equal(stored, decoded[4 + 4 * segment : 8 + 4 * segment])


def test_a_ready_store_is_found_and_nothing_is_decoded(
    data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(data_set, tmp_path)
    monkeypatch.setattr(clip_build, "DecodePool", None)
    assert build(data_set, tmp_path).path == first.path


def test_the_fingerprint_follows_videos_labels_and_spec(data_set: DataSet, videos: Path) -> None:
    def relist() -> DataSet:
        return list_folder("folder", videos, val_share=0.2, split_seed=0)

    before = fingerprint(data_set, SPEC)
    assert fingerprint(relist(), SPEC) == before
    for change in ({"frames": 5}, {"stride": 2}, {"short_side": 17}, {"sampling": "uniform"}):
        assert fingerprint(data_set, replace(SPEC, **change)) != before
    os.utime(videos / "train" / "sit" / "0.mp4", (1, 1))
    touched = fingerprint(relist(), SPEC)
    (videos / "train" / "sit" / "0.mp4").rename(videos / "train" / "sit" / "9.mp4")
    renamed = fingerprint(relist(), SPEC)
    (videos / "train" / "sit" / "9.mp4").unlink()
    assert len({before, touched, renamed, fingerprint(relist(), SPEC)}) == 4


def test_the_fingerprint_does_not_depend_on_where_the_root_is(
    videos: Path, tmp_path: Path, data_set: DataSet
) -> None:
    before = fingerprint(data_set, SPEC)
    moved = videos.rename(tmp_path / "elsewhere")
    assert fingerprint(list_folder("folder", moved, val_share=0.2, split_seed=0), SPEC) == before


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_flipped_byte_anywhere_is_found(data_set: DataSet, tmp_path: Path, split: str) -> None:
    path = build(data_set, tmp_path).path
    file = path / f"{split}.arrow"
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    whole = {s: [ClipStore.open(path).split(s, VIEW).clip(i).clone() for i in range(n)]
             for s, n in (("train", 6), ("test", 4))}  # fmt: skip
    for position in rng.integers(len(content), size=60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            store = ClipStore.open(path)
            store.verify()
        except DataError as error:
            assert str(file) in str(error)  # noqa: PT017
            continue
        clips = store.split(split, VIEW)  # it hit padding: nothing that is read has changed
        assert all(torch.equal(clips.clip(i), whole[split][i]) for i in range(len(clips)))


def test_a_flipped_byte_of_a_clip_is_named_when_it_is_first_read(
    data_set: DataSet, tmp_path: Path
) -> None:
    store = build(data_set, tmp_path)
    file = store.path / "train.arrow"
    content = bytearray(file.read_bytes())
    wanted = store.split("train", VIEW).clip(4).numpy().tobytes()
    content[content.index(wanted) + 100] ^= 1
    del store
    file.write_bytes(content)
    clips = ClipStore.open(file.parent).split("train", VIEW)
    clips.batch([0, 1, 2, 3, 5], epoch=1, train=True)
    with pytest.raises(DataError, match=r"train\.arrow is damaged: .*train/sit/1\.mp4"):
        clips.batch([0, 4], epoch=1, train=True)


@pytest.mark.parametrize("name", ["manifest.json", "train.arrow"])
def test_a_cut_off_or_missing_file_is_named(data_set: DataSet, tmp_path: Path, name: str) -> None:
    path = build(data_set, tmp_path).path
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{name}.* damaged"):
        ClipStore.open(path)
    (path / name).unlink()
    with pytest.raises(DataError, match=name):
        ClipStore.open(path)


def test_only_a_store_that_is_still_damaged_is_discarded(data_set: DataSet, tmp_path: Path) -> None:
    path = build(data_set, tmp_path).path
    discard_damaged_store(path)  # another process built it again in the meantime
    ClipStore.open(path).verify()
    (path / "train.arrow").write_bytes(b"")
    discard_damaged_store(path)
    assert entries(tmp_path) == []


def test_an_edited_manifest_is_noticed(data_set: DataSet, tmp_path: Path) -> None:
    path = build(data_set, tmp_path).path / "manifest.json"
    path.write_text(path.read_text().replace('"jump"', '"leap"'))
    with pytest.raises(DataError, match="does not match its checksum"):
        ClipStore.open(path.parent)


def test_a_half_written_store_is_not_taken_for_a_whole_one(
    data_set: DataSet, tmp_path: Path
) -> None:
    path = build(data_set, tmp_path).path
    whole = (path / "train.arrow").read_bytes()
    shutil.rmtree(path)
    path.mkdir()
    (path / "train.arrow").write_bytes(whole[:1000])
    killed = path.parent / f".{path.name}.partial"
    killed.mkdir()
    (killed / "train.arrow").write_bytes(b"half")
    assert build(data_set, tmp_path).path == path
    assert (path / "train.arrow").read_bytes() == whole
    assert entries(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left")])
def test_a_build_that_is_broken_off_leaves_nothing(
    data_set: DataSet, tmp_path: Path, error: BaseException
) -> None:
    def stop(progress: BuildProgress) -> None:
        if progress.num_done == 5:
            raise error

    expected = DataError if isinstance(error, OSError) else error
    with pytest.raises(expected):  # type: ignore[call-overload]
        build(data_set, tmp_path, progress=stop)
    assert entries(tmp_path) == []


def test_progress_counts_every_video(data_set: DataSet, tmp_path: Path) -> None:
    seen: list[BuildProgress] = []
    build(data_set, tmp_path, progress=seen.append)
    assert [state.num_done for state in seen] == list(range(1, 13))
    assert seen[-1].num_videos == 12
    assert seen[-1].num_bytes == 12 * 4 * 16 * 24 * 3


def test_unreadable_videos_are_skipped_by_name(videos: Path, tmp_path: Path) -> None:
    (videos / "train" / "sit" / "0.mp4").write_bytes(b"")
    (videos / "val" / "sit" / "new\nline.mp4").write_text("text")
    store = build(
        list_folder("folder", videos, val_share=0.2, split_seed=0), tmp_path, max_skipped_share=0.2
    )
    assert [entry.path for entry in store.skipped] == ["train/sit/0.mp4", "val/sit/new\nline.mp4"]
    assert store.skipped[0].reason == "the file is empty"
    assert store.num_clips == 11
    assert store.split("train", VIEW).labels.tolist() == [0, 0, 0, 1, 1]


def test_too_many_unreadable_videos_are_an_error_that_lists_them(
    videos: Path, tmp_path: Path
) -> None:
    (videos / "train" / "sit" / "0.mp4").write_bytes(b"")
    (videos / "val" / "sit" / "new\nline.mp4").write_text("text")
    data_set = list_folder("folder", videos, val_share=0.2, split_seed=0)
    with pytest.raises(DataError) as caught:
        build(data_set, tmp_path, max_skipped_share=0.1)
    message = str(caught.value)
    assert "2 of 13 videos cannot be read, data.max_skipped_share allows 10%" in message
    assert "train/sit/0.mp4: the file is empty" in message
    assert r"'val/sit/new\nline.mp4': it cannot be opened" in message
    assert not list((tmp_path / "clips").glob("folder-*"))


def test_a_build_of_nothing_but_unreadable_videos_is_broken_off(
    videos: Path, tmp_path: Path
) -> None:
    for i in range(300):
        (videos / "train" / "sit" / f"bad{i}.mp4").write_bytes(b"")
    data_set = list_folder("folder", videos, val_share=0.2, split_seed=0)
    with pytest.raises(DataError, match=r"(?s)^100 of 312 videos .*and 80 more$"):
        build(data_set, tmp_path)


def test_a_ready_store_with_more_skipped_than_allowed_now_is_an_error(
    videos: Path, tmp_path: Path
) -> None:
    (videos / "train" / "sit" / "0.mp4").write_bytes(b"")
    data_set = list_folder("folder", videos, val_share=0.2, split_seed=0)
    build(data_set, tmp_path, max_skipped_share=0.2)
    with pytest.raises(DataError, match="1 of 12 videos"):
        build(data_set, tmp_path, max_skipped_share=0.05)


def test_a_split_without_a_readable_video_is_an_error(videos: Path, tmp_path: Path) -> None:
    for path in (videos / "val").rglob("*.mp4"):
        path.write_bytes(b"")
    data_set = list_folder("folder", videos, val_share=0.2, split_seed=0)
    with pytest.raises(DataError, match="none of the val videos can be read"):
        build(data_set, tmp_path, max_skipped_share=0.5)


def test_a_cache_folder_that_cannot_be_made_is_one_sentence(
    data_set: DataSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write the clip store under .*VPETL_CACHE"):
        build(data_set, tmp_path / "file")


def test_a_ready_store_in_a_folder_without_write_permission_can_be_used(
    data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(data_set, tmp_path).path

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vpetl_ray.data.file_lock.open", refuse, raising=False)
    assert build(data_set, tmp_path).path == path
    with pytest.raises(DataError, match="Permission denied; VPETL_CACHE"):
        build(data_set, tmp_path, replace(SPEC, frames=2))


def test_a_split_travels_to_another_process_as_its_path(data_set: DataSet, tmp_path: Path) -> None:
    clips = build(data_set, tmp_path).split("train", VIEW)
    sent = pickle.dumps(clips)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert received.id == clips.id
    assert torch.equal(received.batch([3, 1], epoch=1, train=True),
                       clips.batch([3, 1], epoch=1, train=True))  # fmt: skip


_BUILDER = """
import json, sys
from pathlib import Path
from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.folder import list_folder
data_set = list_folder("folder", Path(sys.argv[1]), val_share=0.2, split_seed=0)
decoded = []
spec = ClipSpec(frames=4, stride=1, short_side=16)
build_clip_store(data_set, spec, Path(sys.argv[2]), num_processes=0, progress=decoded.append)
print(len(decoded))
"""


def test_two_builders_of_the_same_store_decode_it_once(data_set: DataSet, tmp_path: Path) -> None:
    decoded: list[BuildProgress] = []

    def run() -> Path:  # the lock tells open files apart, not processes, so threads will do
        return build(data_set, tmp_path, progress=decoded.append).path

    with ThreadPoolExecutor(4) as threads:
        paths = {future.result() for future in [threads.submit(run) for _ in range(4)]}
    assert len(paths) == 1
    assert len(decoded) == 12


@pytest.mark.slow
def test_two_processes_that_want_the_same_store_decode_it_once(
    videos: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _BUILDER, str(videos), str(tmp_path / "cache")]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = sorted(int(builder.communicate()[0]) for builder in builders)
    assert counts == [0, 12]
    assert len(entries(tmp_path / "cache")) == 1
