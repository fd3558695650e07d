"""Videos that nobody should have to decode: each takes itself, and nothing else.

Real files, decoded by the real processes: what is no video, what lies about itself, what is larger
than memory, and what random bytes make of a good one.
"""

import os
import random
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.conftest import make_video
from vpetl_ray.data.config import ClipSpec, DataConfig
from vpetl_ray.data.decode_pool import DecodePool
from vpetl_ray.data.decoded import UnreadableVideoError
from vpetl_ray.data.folder import list_folder
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.errors import DataError

__all__ = ["make_video"]
pytestmark = pytest.mark.timeout(200)

SPEC = ClipSpec(frames=4, stride=1, short_side=32)
LITTLE_MEMORY = 300 * 2**20


def encode(path, *, width, height, num_frames=4, pts=None, options=None, pix_fmt="yuv420p"):
    """Black frames, as small a file as a codec makes of them."""
    fast = {"preset": "ultrafast", "crf": "51"}
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=25, options=fast)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = Fraction(1, 25)
        for index in range(num_frames):
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts = index if pts is None else pts[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def say_it_is_small(path):
    """Let every header of an mp4 say 32 x 32; only the coded frames know better."""
    content = bytearray(path.read_bytes())
    box = content.index(b"avc1") + 4 + 24  # behind the version, a reserved word and so on
    content[box : box + 4] = struct.pack(">HH", 32, 32)
    track = content.index(b"tkhd") + 4 + 76
    content[track : track + 8] = struct.pack(">II", 32 << 16, 32 << 16)
    path.write_bytes(content)


def say_it_is_long(path):
    """Let an mp4 claim a frame that lasts for years."""
    content = bytearray(path.read_bytes())
    times = content.index(b"stts") + 4 + 8
    content[times : times + 8] = struct.pack(">II", 0x7FFFFFFF, 0x7FFFFFFF)
    path.write_bytes(content)


def of_many_samples(path):
    """Let an mp4 claim four billion samples of one size."""
    content = bytearray(path.read_bytes())
    sizes = content.index(b"stsz") + 4 + 4
    content[sizes : sizes + 8] = struct.pack(">II", 1, 0xFFFFFFFF)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def pool():
    """One decoder process, followed by another where it dies."""
    with DecodePool(SPEC, 1, seconds_a_video=20, bytes_a_video=LITTLE_MEMORY) as pool:
        yield pool


def decode(pool, paths):
    """Outcomes in order, and how many processes died of them."""
    before = max(1, len(pool._workers))
    outcomes = list(pool.decode(map(str, paths)))
    return outcomes, len(pool._workers) - before


def test_a_video_that_fills_memory_is_unreadable_and_the_next_one_is_not(
    pool, tmp_path, make_video, record_fault
):
    """192 MB a frame, in a file of some kB that says it is 32 x 32."""
    large = encode(tmp_path / "large.mp4", width=8000, height=8000, num_frames=2)
    say_it_is_small(large)
    assert large.stat().st_size < 2**20
    good = make_video(tmp_path / "good.mp4")
    outcomes, num_died = decode(pool, [good, large, good])
    lost = sum(isinstance(outcomes[i], UnreadableVideoError) for i in (0, 2))
    record_fault("a hostile video", injected=1, lost=lost)
    assert not lost
    assert "more memory than a video may" in str(outcomes[1]) or "crashed" in str(outcomes[1])
    assert num_died <= 1


@pytest.mark.faults
def test_frames_of_8k_are_decoded_within_the_memory_of_a_video(tmp_path):
    eight = encode(tmp_path / "8k.mp4", width=7680, height=4320, num_frames=8)
    largest = encode(tmp_path / "largest.mp4", width=8192, height=8192, num_frames=8)
    with DecodePool(SPEC, 1) as pool:
        (first, second), num_died = decode(pool, [eight, largest])
    assert (first.shape, second.shape) == ((4, 32, 57, 3), (4, 32, 32, 3))
    assert num_died == 0


LYING = {
    "long": (say_it_is_long, None),
    "many samples": (of_many_samples, "cannot be opened as a video|no frames"),
    "cut in its index": (lambda path: path.write_bytes(path.read_bytes()[:-200]), None),
    "cut in its frames": (lambda path: path.write_bytes(path.read_bytes()[:300]), "as a video"),
}


@pytest.mark.parametrize("how", LYING)
def test_a_file_that_lies_about_itself_gives_a_clip_or_a_reason(pool, tmp_path, make_video, how):
    spoil, reason = LYING[how]
    path, good = make_video(tmp_path / "bad.mp4"), make_video(tmp_path / "good.mp4")
    spoil(path)
    (bad, after), num_died = decode(pool, [path, good])
    assert after.shape == (4, 32, 48, 3)
    assert num_died == 0
    if isinstance(bad, UnreadableVideoError):
        assert reason is None or any(words in str(bad) for words in reason.split("|"))
    else:
        assert (reason, bad.shape) == (None, (4, 32, 48, 3))


@pytest.mark.parametrize("name", ["early.mp4", "early.mkv", "early.ts", "early.avi"])
def test_time_stamps_before_zero_give_the_frames(pool, tmp_path, name):
    path = encode(
        tmp_path / name, width=48, height=32, num_frames=6, pts=range(-3, 3),
        options={"avoid_negative_ts": "disabled"},
    )  # fmt: skip
    (clip,), _ = decode(pool, [path])
    assert clip.shape == (4, 32, 48, 3)


def test_a_video_of_one_pixel_gives_a_clip(pool, tmp_path):
    path = encode(tmp_path / "dot.mp4", width=1, height=1, pix_fmt="yuv444p")
    (clip,), _ = decode(pool, [path])
    assert clip.shape == (4, 32, 32, 3)


@pytest.mark.parametrize("suffix", ["mp4", "webm", "avi", "mkv"])
@pytest.mark.parametrize("number", [25, pytest.param(400, marks=pytest.mark.faults)])
def test_damaged_bytes_take_their_video_alone(
    pool, tmp_path, make_video, record_fault, suffix, number
):
    """Pieces overwritten, cut out, doubled: every file gives a clip or a reason, in time."""
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(suffix, "libx264")
    good = make_video(tmp_path / f"good.{suffix}", codec=codec, num_frames=10)
    rng = random.Random(suffix)
    paths = []
    for index in range(number):
        content = bytearray(good.read_bytes())
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(len(content))
            piece = content[start : start + rng.randint(1, 40)]
            how = rng.randrange(4)
            new = [rng.randbytes(len(piece)), b"", piece * 3, bytes([255]) * len(piece)][how]
            content[start : start + len(piece)] = new
        path = tmp_path / f"{index}.{suffix}"
        path.write_bytes(content)
        paths += [path] if index % 10 else [path, good]
    outcomes, num_died = decode(pool, paths)
    good_ones = [clip for path, clip in zip(paths, outcomes, strict=True) if path == good]
    lost = sum(isinstance(clip, UnreadableVideoError) for clip in good_ones)
    record_fault("a hostile video", injected=number, lost=lost)
    assert not lost
    for clip in outcomes:
        if isinstance(clip, UnreadableVideoError):
            assert str(clip)
            assert "\n" not in str(clip)
        else:
            assert (clip.dtype, clip.shape[0], clip.shape[3]) == (np.uint8, 4, 3)
    reasons = [str(clip) for clip in outcomes if isinstance(clip, UnreadableVideoError)]
    assert num_died <= sum("crashed" in text or "took more" in text for text in reasons)


ODD_NAMES = ["two\nlines.mp4", "'quo\"ted'.mp4", "-rf.mp4", "$(touch owned).mp4", "🎬 é.mp4",
             "a;b&c|d.mp4", "%s%n.mp4", "x" * 240 + ".mp4", "http:x.mp4", "pipe:0.mp4"]  # fmt: skip


def test_files_and_classes_with_any_name_are_decoded(tmp_path, make_video, monkeypatch):
    """A name is never a command, an option, a pattern or another protocol of the decoder."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "set"
    good = make_video(tmp_path / "good.mp4")
    for label in ("o'ne\n", '<b>"two"&'):
        for name in ODD_NAMES:
            (root / label).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(good, root / label / name)
    config = DataConfig(source="folder", path=str(root), frames=4, size=16, short_side=16)
    store = prepare_store(config, root=tmp_path / "cache", num_processes=1).store
    assert store.classes == ('<b>"two"&', "o'ne\n")
    assert sum(seal.num_clips for seal in store.manifest.files.values()) == 2 * len(ODD_NAMES)
    assert not list(tmp_path.rglob("owned"))

    shutil.copyfile(good, os.fsencode(root / "o'ne\n") + b"/\xff\xfe.mp4")
    with pytest.raises(DataError, match=r"\\udcff\\udcfe.mp4.: the name is no UTF-8 text; rename"):
        config.list_videos(root=tmp_path)


@pytest.mark.parametrize("what", ["file", "class folder", "split folder"])
def test_links_that_lead_out_of_the_folder_are_refused_unless_it_is_stated(tmp_path, what):
    outside, root = tmp_path / "elsewhere", tmp_path / "set"
    for label in ("a", "b"):
        for split in ("train", "val", "test"):
            for base in (outside, root):
                (base / split / label).mkdir(parents=True)
                (base / split / label / "0.mp4").touch()
    place = {"file": "train/b/0.mp4", "class folder": "val/b", "split folder": "test"}[what]
    shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink()
    (root / place).symlink_to(outside / place)
    (root / "train" / "a" / "1.mp4").symlink_to(root / "train" / "a" / "0.mp4")
    strict = DataConfig(source="folder", path=str(root))
    with pytest.raises(DataError, match=r"leads out of .*set; data\.outside_paths: true allows"):
        strict.list_videos(root=tmp_path)
    lenient = DataConfig(source="folder", path=str(root), outside_paths=True)
    assert lenient.list_videos(root=tmp_path).num_videos == 7
    linked = tmp_path / "linked"
    linked.symlink_to(outside)
    assert list_folder("folder", Path(linked), val_share=0.1, split_seed=0).num_videos == 6
