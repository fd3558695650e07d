"""Which frames of a file become a clip, at what size, and which files give none."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.conftest import VideoMaker, frame_value
from vpetl_ray.data import decode
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decode import decode_clip, sample_indices
from vpetl_ray.data.decoded import UnreadableVideoError


def greys(clip: np.ndarray) -> list[int]:
    """The grey of each frame's right half."""
    return [round(float(frame[4:-4, -8:].mean())) for frame in clip]


def assert_frames(clip: np.ndarray, indices: list[int]) -> None:
    np.testing.assert_allclose(greys(clip), [frame_value(i) for i in indices], atol=4)


@pytest.mark.parametrize(
    ("num_frames", "spec", "expected"),
    [
        (8, ClipSpec(frames=8, stride=1), [0, 1, 2, 3, 4, 5, 6, 7]),
        (20, ClipSpec(frames=4, stride=2), [6, 8, 10, 12]),
        (9, ClipSpec(frames=4, stride=2), [1, 3, 5, 7]),
        (3, ClipSpec(frames=8, stride=1), [0, 1, 2, 0, 1, 2, 0, 1]),
        (1, ClipSpec(frames=3, stride=5), [0, 0, 0]),
        (100, ClipSpec(frames=4, sampling="uniform"), [12, 37, 62, 86]),
        (2, ClipSpec(frames=4, sampling="uniform"), [0, 0, 0, 1]),
    ],
    ids=["exact", "middle", "odd rest", "looped", "single frame", "uniform", "uniform, short"],
)
def test_sample_indices(num_frames: int, spec: ClipSpec, expected: list[int]) -> None:
    assert sample_indices(num_frames, spec) == expected


@pytest.mark.parametrize(
    ("num_frames", "spec", "moment", "expected"),
    [
        (20, ClipSpec(frames=4, stride=2), Fraction(1, 8), [1, 3, 5, 7]),
        (20, ClipSpec(frames=4, stride=2), Fraction(7, 8), [11, 13, 15, 17]),
        (8, ClipSpec(frames=4, stride=2), Fraction(7, 8), [0, 2, 4, 6]),
        (3, ClipSpec(frames=4, stride=1), Fraction(7, 8), [0, 1, 2, 0]),
        (100, ClipSpec(frames=4, sampling="uniform"), Fraction(1, 4), [6, 31, 56, 80]),
        (100, ClipSpec(frames=4, sampling="uniform"), Fraction(3, 4), [18, 43, 68, 92]),
    ],
    ids=["first", "last", "exact", "looped", "uniform first", "uniform last"],
)
def test_sample_indices_of_segments(
    num_frames: int, spec: ClipSpec, moment: Fraction, expected: list[int]
) -> None:
    assert sample_indices(num_frames, spec, moment) == expected


@pytest.mark.parametrize("name", ["long.mp4", "long.webm"])
@pytest.mark.parametrize("sampling", ["dense", "uniform"])
def test_segments_follow_the_clip_and_lie_along_the_video(
    tmp_path: Path, make_video: VideoMaker, name: str, sampling: str
) -> None:
    codec = "libx264" if name.endswith("mp4") else "libvpx"
    path = str(make_video(tmp_path / name, num_frames=100, codec=codec))
    spec = ClipSpec(frames=4, stride=2, short_side=32, sampling=sampling)  # type: ignore[arg-type]
    clip = decode_clip(path, spec, num_segments=4)
    assert clip.shape[0] == 4 * 5
    np.testing.assert_array_equal(clip[:4], decode_clip(path, spec))
    moments = [Fraction(1, 8), Fraction(3, 8), Fraction(5, 8), Fraction(7, 8)]
    indices = [i for moment in moments for i in sample_indices(100, spec, moment)]
    assert_frames(clip[4:], indices)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("b.mp4", "mpeg4"),
        ("c.mp4", "libx265"),
        ("sound.mp4", "libx264"),
        ("a.avi", "mpeg4"),
        ("b.avi", "mjpeg"),
        ("a.webm", "libvpx-vp9"),
        ("b.webm", "libvpx"),
        ("c.webm", "libsvtav1"),
        ("sound.webm", "libvpx-vp9"),
        ("a.mkv", "libx264"),
        ("sound.mkv", "libx264"),
        ("a.mov", "mjpeg"),
        ("a.mpg", "mpeg1video"),
        ("a.ts", "libx264"),
        ("a.wmv", "wmv2"),
        ("a.flv", "flv"),
    ],
)
def test_every_container_gives_the_same_frames(
    tmp_path: Path, make_video: VideoMaker, name: str, codec: str
) -> None:
    large = codec in ("libsvtav1", "libx265")  # these refuse less
    path = make_video(
        tmp_path / name,
        width=96 if large else 48,
        height=64 if large else 32,
        codec=codec,
        pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
        with_audio=name.startswith("sound"),
    )
    clip = decode_clip(str(path), ClipSpec(frames=4, stride=2, short_side=32))
    assert clip.shape == (4, 32, 48, 3)
    assert clip.dtype == np.uint8
    assert_frames(clip, sample_indices(12, ClipSpec(frames=4, stride=2)))


@pytest.mark.parametrize("sampling", ["dense", "uniform"])
def test_a_long_video_gives_the_frames_of_its_middle_without_decoding_all(
    tmp_path: Path, make_video: VideoMaker, monkeypatch: pytest.MonkeyPatch, sampling: str
) -> None:
    path = make_video(tmp_path / "long.mp4", num_frames=100)
    spec = ClipSpec(frames=4, stride=2, short_side=32, sampling=sampling)
    monkeypatch.setattr(decode, "_decode_with_pyav", None)  # must not be needed
    assert_frames(decode_clip(str(path), spec), sample_indices(100, spec))


def test_a_video_shorter_than_the_clip_is_looped(tmp_path: Path, make_video: VideoMaker) -> None:
    path = make_video(tmp_path / "short.mp4", num_frames=3)
    clip = decode_clip(str(path), ClipSpec(frames=8, stride=2, short_side=32))
    assert_frames(clip, [0, 2, 1, 0, 2, 1, 0, 2])


def test_frames_too_large_to_hold_are_read_one_by_one(
    tmp_path: Path, make_video: VideoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "large.mp4", num_frames=100)
    spec = ClipSpec(frames=4, stride=2, short_side=16)
    held = decode_clip(str(path), spec)
    monkeypatch.setattr(decode, "_MAX_HELD_BYTES", 1000)
    np.testing.assert_array_equal(decode_clip(str(path), spec), held)


def test_a_long_webm_is_not_held_as_a_whole(
    tmp_path: Path, make_video: VideoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "long.webm", num_frames=100, codec="libvpx")
    spec = ClipSpec(frames=4, stride=2, short_side=32)
    assert_frames(decode_clip(str(path), spec), sample_indices(100, spec))
    monkeypatch.setattr(decode, "_MAX_HELD_BYTES", 50 * 48 * 32 * 3)
    monkeypatch.setattr(decode, "EncodedVideoPyAV", None)  # it would hold all 100
    assert_frames(decode_clip(str(path), spec), sample_indices(100, spec))


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(48, 32, (24, 36)), (32, 48, (36, 24)), (49, 33, (24, 36)), (24, 24, (24, 24))],
    ids=["landscape", "portrait", "odd", "as stored"],
)
def test_the_short_side_is_scaled_and_proportions_kept(
    tmp_path: Path, make_video: VideoMaker, width: int, height: int, expected: tuple[int, int]
) -> None:
    pix_fmt = "yuv444p" if width % 2 else "yuv420p"
    path = make_video(tmp_path / "a.mp4", width=width, height=height, pix_fmt=pix_fmt)
    clip = decode_clip(str(path), ClipSpec(frames=2, stride=1, short_side=24))
    assert clip.shape == (2, *expected, 3)


@pytest.mark.parametrize("rotation", [90, -90, 180], ids=["left", "right", "upside down"])
def test_a_video_of_a_turned_telephone_is_upright(
    tmp_path: Path, make_video: VideoMaker, monkeypatch: pytest.MonkeyPatch, rotation: int
) -> None:
    spec = ClipSpec(frames=4, stride=2, short_side=32)
    flat = decode_clip(str(make_video(tmp_path / "flat.mp4")), spec)
    path = str(make_video(tmp_path / "turned.mp4", rotation=rotation))
    with av.open(path) as container:
        assert next(container.decode(video=0)).rotation in (rotation, -rotation)
        expected = np.rot90(flat, next(container.decode(video=0)).rotation // 90, axes=(1, 2))
    np.testing.assert_array_equal(decode_clip(path, spec), expected)
    monkeypatch.setattr(decode, "_MAX_HELD_BYTES", 1000)  # frame by frame, too
    np.testing.assert_array_equal(decode_clip(path, spec), expected)


@pytest.mark.parametrize("name", ["vfr.mkv", "vfr.mp4"])
def test_frames_of_a_variable_rate_are_counted(
    tmp_path: Path, make_video: VideoMaker, name: str
) -> None:
    short = [0, 1, 2, 9, 10, 20, 21, 22, 40, 41, 42, 43]
    path = make_video(tmp_path / name, pts=short)
    spec = ClipSpec(frames=6, stride=2, short_side=32)
    assert_frames(decode_clip(str(path), spec), [0, 2, 4, 6, 8, 10])
    # Slow in the middle: as many seconds as the clip would last hold fewer frames.
    long = [*range(30), *range(30, 230, 10), *range(230, 260)]
    path = make_video(tmp_path / f"long_{name}", pts=long, num_frames=80)
    assert_frames(decode_clip(str(path), spec), sample_indices(80, spec))


def test_an_avi_cut_off_in_the_middle_gives_what_is_there(
    tmp_path: Path, make_video: VideoMaker
) -> None:
    path = make_video(tmp_path / "cut.avi", codec="mpeg4", num_frames=100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    clip = decode_clip(str(path), ClipSpec(frames=4, stride=1, short_side=32))
    assert clip.shape == (4, 32, 48, 3)


def _silence(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("not a video\n" * 50), "opened as a video: invalid data"),
        (_silence, "no video stream"),
        (_no_frames, "no video stream|no frames"),
        (lambda path: None, "opened as a video: no such file"),
        (lambda path: path.mkdir(), "opened as a video: is a directory"),
    ],
    ids=["zero bytes", "renamed text", "audio alone", "no frames", "missing", "folder"],
)
def test_what_gives_no_clip_is_unreadable_with_a_reason(
    tmp_path: Path, write: object, reason: str
) -> None:
    path = tmp_path / "bad.mp4"
    write(path)  # type: ignore[operator]
    with pytest.raises(UnreadableVideoError, match=reason):
        decode_clip(str(path), ClipSpec(short_side=32))


@pytest.mark.parametrize(
    ("name", "list_of"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile {}\n"),
        ("b.mp4", "v=0\no=- 0 0 IN IP4 {}\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
    ],
    ids=["HLS", "ffconcat", "SDP"],
)
def test_a_list_of_other_files_is_no_video(
    tmp_path: Path, make_video: VideoMaker, name: str, list_of: str
) -> None:
    make_video(tmp_path / "other.ts")
    (tmp_path / name).write_text(list_of.format("other.ts"))
    with pytest.raises(UnreadableVideoError, match="format that is none of mov, matroska"):
        decode_clip(str(tmp_path / name), ClipSpec(short_side=32))


def test_a_truncated_mp4_is_unreadable(tmp_path: Path, make_video: VideoMaker) -> None:
    path = make_video(tmp_path / "cut.mp4")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UnreadableVideoError, match="opened as a video"):
        decode_clip(str(path), ClipSpec(short_side=32))


def test_a_strip_of_pixels_is_unreadable(tmp_path: Path, make_video: VideoMaker) -> None:
    path = make_video(tmp_path / "strip.mp4", width=640, height=16)
    with pytest.raises(UnreadableVideoError, match="640 x 16"):
        decode_clip(str(path), ClipSpec(short_side=32))


def test_a_decoder_imports_no_data_sets_and_leaves_them_to_be_imported() -> None:
    """They bring torchvision and torch's compiler, which take longer than a hundred videos."""
    code = (
        "import sys, vpetl_ray.data.decode as decode\n"
        "assert not {'torchvision', 'torch._dynamo'} & set(sys.modules)\n"
        "from pytorchvideo.data import Kinetics\n"
        "from pytorchvideo.data.encoded_video_pyav import EncodedVideoPyAV\n"
        "assert EncodedVideoPyAV is decode.EncodedVideoPyAV\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
