"""A build that was killed or broken off is gone on with, and nobody can tell from the store."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import VideoMaker
from vpetl_ray.data import decode, partial_build
from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.clip_recovery import ContinuedFile, whole_batches
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.file_lock import file_lock
from vpetl_ray.data.folder import list_folder
from vpetl_ray.data.store_files import BuildProgress
from vpetl_ray.errors import DataError

SPEC = ClipSpec(frames=4, stride=1, short_side=16)
CLIP_BYTES = 4 * 16 * 24 * 3
NUM_TRAIN = 20


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    """Three clips in a batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vpetl_ray.data.clip_file._BATCH_BYTES", 2 * CLIP_BYTES + 1)
        yield


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory, make_video: VideoMaker) -> DataSet:
    """20 train, 4 val and 4 test videos; two of train and the last of test are no videos."""
    root = tmp_path_factory.mktemp("data") / "videos"
    for split, count in (("train", NUM_TRAIN // 2), ("val", 2), ("test", 2)):
        for shade, label in enumerate(("jump", "sit")):
            for i in range(count):
                make_video(root / split / label / f"{i}.mp4", shade=2 * i + shade)
    for name in ("train/jump/4.mp4", "train/sit/0.mp4", "test/sit/1.mp4"):
        (root / name).write_text("text")
    return list_folder("folder", root, val_share=0.2, split_seed=0)


@pytest.fixture(scope="module")
def in_one_go(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that was built without a break."""
    return contents(build(data_set, tmp_path_factory.mktemp("whole")))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The videos that are decoded from now on."""
    paths: list[str] = []
    real = decode.decode_clip

    def note(path: str, spec: ClipSpec, **more: int) -> np.ndarray:
        paths.append(path)
        return real(path, spec, **more)

    monkeypatch.setattr(decode, "decode_clip", note)
    return paths


def build(data_set: DataSet, root: Path, **options: object) -> Path:
    options = {"num_processes": 0, "max_skipped_share": 0.2, **options}
    return build_clip_store(data_set, SPEC, root, **options)  # type: ignore[arg-type]


def break_off(data_set: DataSet, root: Path, *, after: int) -> Path:
    """Interrupt a build after so many videos; its partial folder."""

    def stop(progress: BuildProgress) -> None:
        if progress.num_done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(data_set, root, progress=stop)
    return partial_of(root)


def partial_of(root: Path) -> Path:
    [folder] = (root / "clips").glob(".*.partial")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("after", [4, 14, NUM_TRAIN, 22, 27])
def test_a_resumed_build_decodes_the_rest_and_the_store_is_the_same(
    data_set: DataSet,
    in_one_go: dict[str, bytes],
    tmp_path: Path,
    decoded: list[str],
    after: int,
) -> None:
    break_off(data_set, tmp_path, after=after)
    assert len(decoded) == after
    seen: list[BuildProgress] = []
    path = build(data_set, tmp_path, progress=seen.append)
    assert contents(path) == in_one_go
    num_before = seen[-1].num_before
    assert after - 3 <= num_before <= after  # an unfinished batch is lost, and no more
    assert len(decoded) == after + data_set.num_videos - num_before
    assert [state.num_done for state in seen] == list(range(1, data_set.num_videos + 1))
    assert [s.num_before for s in seen[:num_before]] == [s.num_done for s in seen[:num_before]]
    assert seen[-1].num_skipped == 3
    assert not list((tmp_path / "clips").glob(".*.partial"))


def test_a_build_may_be_broken_off_many_times(
    data_set: DataSet, in_one_go: dict[str, bytes], tmp_path: Path, decoded: list[str]
) -> None:
    for after in range(4, data_set.num_videos, 4):
        break_off(data_set, tmp_path, after=after)
    assert contents(build(data_set, tmp_path)) == in_one_go
    assert len(decoded) < 2 * data_set.num_videos


def test_damage_costs_what_follows_it_and_never_gets_into_the_store(
    data_set: DataSet, in_one_go: dict[str, bytes], tmp_path: Path
) -> None:
    file = break_off(data_set, tmp_path, after=14) / "train.arrow"
    content, journal = file.read_bytes(), (file.parent / "build.jsonl").read_bytes()
    rng = np.random.default_rng(0)
    for position in [4, 100, *rng.integers(len(content), size=4)]:
        file.parent.mkdir(exist_ok=True)
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged[: rng.integers(position, len(content)) + 1])
        (file.parent / "build.jsonl").write_bytes(journal)
        path = build(data_set, tmp_path)
        assert contents(path) == in_one_go, position
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()


def test_a_flipped_byte_costs_its_batch_and_those_after_it(
    data_set: DataSet, in_one_go: dict[str, bytes], tmp_path: Path, decoded: list[str]
) -> None:
    file = break_off(data_set, tmp_path, after=NUM_TRAIN) / "train.arrow"
    batches = list(whole_batches(file, 4))
    assert [len(rows) for rows in batches] == [3] * 6
    content = bytearray(file.read_bytes())
    content[content.index(batches[3][1].clip.tobytes()) + 7] ^= 1
    del batches
    file.write_bytes(content)
    decoded.clear()
    assert contents(build(data_set, tmp_path)) == in_one_go
    assert len(decoded) == 9 + 8
    assert not any("train/jump" in path for path in decoded)


def test_what_another_version_of_arrow_wrote_is_decoded_again(
    data_set: DataSet,
    in_one_go: dict[str, bytes],
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = break_off(data_set, tmp_path, after=NUM_TRAIN) / "train.arrow"
    monkeypatch.setattr("vpetl_ray.data.clip_file._BATCH_BYTES", CLIP_BYTES + 1)
    del decoded[:]
    path = build(data_set, tmp_path)
    assert len(decoded) == data_set.num_videos - 2  # what is unreadable stays so
    assert contents(path).keys() == in_one_go.keys()
    ClipStore.open(path).verify()
    assert not file.exists()


def test_a_partial_build_of_another_store_is_no_start(
    data_set: DataSet, in_one_go: dict[str, bytes], tmp_path: Path, decoded: list[str]
) -> None:
    journal = break_off(data_set, tmp_path, after=14) / "build.jsonl"
    journal.write_text(journal.read_text().replace('{"fingerprint": "', '{"fingerprint": "0'))
    del decoded[:]
    assert contents(build(data_set, tmp_path)) == in_one_go
    assert len(decoded) == data_set.num_videos


def test_without_its_journals_last_line_a_build_starts_before_that_video(
    data_set: DataSet, in_one_go: dict[str, bytes], tmp_path: Path
) -> None:
    journal = break_off(data_set, tmp_path, after=NUM_TRAIN) / "build.jsonl"
    journal.write_text(journal.read_text()[:-9])
    seen: list[BuildProgress] = []
    assert contents(build(data_set, tmp_path, progress=seen.append)) == in_one_go
    assert seen[-1].num_before == 10  # the batch that spans the gap is not used


def test_too_many_unreadable_videos_keep_what_was_decoded(
    data_set: DataSet, in_one_go: dict[str, bytes], tmp_path: Path, decoded: list[str]
) -> None:
    with pytest.raises(DataError, match="3 of 28 videos cannot be read"):
        build(data_set, tmp_path, max_skipped_share=0.05)
    del decoded[:]
    assert contents(build(data_set, tmp_path)) == in_one_go
    assert decoded == []


_BUILDER = """
import sys, time
from pathlib import Path
from vpetl_ray.data import clip_file
from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.folder import list_folder

def tell(state):
    if state.num_done == 14:
        print("half", flush=True)
        time.sleep(60)

clip_file._BATCH_BYTES = int(sys.argv[3])
data_set = list_folder("folder", Path(sys.argv[1]), val_share=0.2, split_seed=0)
spec = ClipSpec(frames=4, stride=1, short_side=16)
build_clip_store(data_set, spec, Path(sys.argv[2]), num_processes=0, max_skipped_share=0.2,
                 progress=tell)
"""


def test_a_killed_build_is_gone_on_with(
    data_set: DataSet, in_one_go: dict[str, bytes], tmp_path: Path, decoded: list[str]
) -> None:
    words = [str(data_set.root), str(tmp_path), str(2 * CLIP_BYTES + 1)]
    builder = subprocess.Popen([sys.executable, "-c", _BUILDER, *words], stdout=subprocess.PIPE)
    assert builder.stdout
    assert builder.stdout.readline() == b"half\n"
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert contents(build(data_set, tmp_path)) == in_one_go
    assert len(decoded) == data_set.num_videos - 14  # 12 clips of them in 4 batches


def test_what_nobody_went_on_with_for_a_week_is_cleaned_away(
    data_set: DataSet, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    long_ago = time.time() - partial_build.STALE_SECONDS - 60
    for name in (".a-1.partial", ".b-2.partial", ".c-3.partial", ".d-4.partial-old"):
        (clips / name).mkdir(parents=True)
        (clips / name / "train.arrow").write_bytes(b"half")
        if name != ".c-3.partial":
            os.utime(clips / name / "train.arrow", (long_ago, long_ago))
            os.utime(clips / name, (long_ago, long_ago))
    with file_lock(clips / ".b-2.lock"):
        build(data_set, tmp_path)
    left = sorted(path.name for path in clips.glob(".*.partial*"))
    assert left == [".b-2.partial", ".c-3.partial"]


def test_a_continued_file_is_compared_until_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with ContinuedFile(path) as file:
        file.write(b"012")
        file.go_on()
        file.write(b"abc")
        assert file.tell() == 6
        file.end_here()
    assert path.read_bytes() == b"012abc"
