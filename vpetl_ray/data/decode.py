"""One video file to one clip of bytes: which frames, decoded how, scaled to what.

Frames are chosen as Video Swin is tested (mmaction2's `SampleFrames`): `dense` takes a run of
`frames x stride` from the middle of the video, `uniform` the middle frame of each of `frames`
equal segments. A video shorter than that is looped: after its last frame comes its first.

pytorchvideo decodes. Where it finds nothing in a file (it gives up on some containers' time
stamps, and swallows the decoder's own message), PyAV reads the file directly, and the reason it
gives is the reason that is reported. PyAV also reads frames too large to be held all at once.
torchcodec 0.17 was tried beside it and left out: its wheel brings no FFmpeg, as PyAV's does, and
does not load where the system has none.
Frames are turned upright where the file says that the camera was not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import torch

from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decoded import Clip, UnreadableVideoError
from vpetl_ray.data.encoded_video import EncodedVideoPyAV
from vpetl_ray.data.scale import check_frame_size, scale_short_side

_MIDDLE = Fraction(1, 2)
_MAX_HELD_BYTES = 512 * 2**20  # of RGB; pytorchvideo holds about five times that
_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "asf", "flv", "ogg", "gif", "mxf"),
    *("nut", "ivf", "dv", "rm", "yuv4mpegpipe", "m4v", "h264", "hevc", "av1", "obu", "mjpeg"),
)
"""FFmpeg's names of the containers that are read. Whatever its name, a file may be a list of other
files (HLS, ffconcat, DASH, SDP), which FFmpeg would read wherever they lie."""


@dataclass(frozen=True, kw_only=True)
class _Header:
    height: int
    width: int
    num_frames: int | None
    """None where the container does not say; it may also be wrong."""
    rate: Fraction | None
    """Frames a second."""
    is_timed: bool
    """Whether the stream says how long it is; pytorchvideo holds all of one that does not."""
    quarter_turns: int
    """How often the frames are turned by 90 degrees, counterclockwise, to be upright."""


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """A part of a video that is decoded in one go."""

    start: Fraction
    end: Fraction
    """Seconds; the end is not part of it."""
    num_frames: int
    """How many frames it should hold, going by the header."""
    is_whole: bool = False


def decode_clip(path: str, spec: ClipSpec, *, num_segments: int = 1) -> Clip:
    """Decode one clip of a video file, and of more segments than one those of each after it.

    Args:
        path: any container that PyAV opens.
        spec: frames, stride, sampling and stored size.
        num_segments: further clips, evenly along the video (mmaction2's `num_clips`).

    Returns:
        uint8 RGB of shape (frames, H, W, 3), the shorter of H and W equal to ``short_side``;
        with segments (frames x (1 + num_segments), H, W, 3).

    Raises:
        UnreadableVideoError: the file cannot be opened, has no video stream or no frames.

    """
    header = _read_header(path)
    further = [Fraction(2 * i + 1, 2 * num_segments) for i in range(num_segments)]
    moments = [_MIDDLE, *further] if num_segments > 1 else [_MIDDLE]
    clips = [_decode_at(moment, path, header, spec) for moment in moments]
    if len({clip_THWC.shape for clip_THWC in clips}) > 1:
        raise UnreadableVideoError("the size of its frames changes")
    return np.ascontiguousarray(torch.cat(clips).numpy())


def sample_indices(num_frames: int, spec: ClipSpec, moment: Fraction = _MIDDLE) -> list[int]:
    """Choose the frames of a clip from a video of `num_frames`; see the head of this file.

    `moment`, from 0 to 1, says how far into the video a dense clip lies, and how far into its
    segment each frame of a uniform one.
    """
    if spec.sampling == "uniform":
        segment = (num_frames - 1) / spec.frames
        edges = [round(segment * i) for i in range(spec.frames + 1)]
        return [start + int((end - start) * moment) for start, end in pairwise(edges)]
    first = int(max(0, num_frames - spec.frames * spec.stride + 1) * moment)
    return [(first + i * spec.stride) % num_frames for i in range(spec.frames)]


def _decode_at(moment: Fraction, path: str, header: _Header, spec: ClipSpec) -> torch.Tensor:
    frames_THWC = _decode_with_pytorchvideo(path, header, spec, moment)
    if frames_THWC is None:
        frames_THWC = _decode_with_pyav(path, header, spec, moment)
    upright_THWC = torch.rot90(frames_THWC, header.quarter_turns, dims=(1, 2))
    return scale_short_side(upright_THWC, spec.short_side)


def _read_header(path: str) -> _Header:
    try:
        if os.path.getsize(path) == 0:
            raise UnreadableVideoError("the file is empty")
        with _opened(path) as container:
            if not container.streams.video:
                raise UnreadableVideoError("it has no video stream")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            num_frames = stream.frames or None
            seconds = _duration(container, stream)
            if not num_frames and rate and seconds:
                num_frames = max(1, round(seconds * rate))
            is_timed = stream.duration is not None
            height, width = stream.height, stream.width
            quarter_turns = _quarter_turns(container)
    except av.error.ArgumentError as error:  # what FFmpeg calls a format that is not allowed
        raise UnreadableVideoError(
            f"it cannot be opened as a video: {_reason(error)}, or a format that is none of "
            f"{', '.join(_FORMATS)}"
        ) from error
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise UnreadableVideoError(f"it cannot be opened as a video: {_reason(error)}") from error
    check_frame_size(height, width)
    return _Header(
        height=height,
        width=width,
        num_frames=num_frames,
        rate=rate,
        is_timed=is_timed,
        quarter_turns=quarter_turns,
    )


def _opened(path: str) -> av.container.InputContainer:
    """Open a file, and no other that it may name."""
    allowed = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
    return av.open(path, options=allowed)


def _quarter_turns(container: av.container.InputContainer) -> int:
    """Read how a telephone was held: decoders leave the turning to whoever shows the video."""
    if "mp4" not in container.format.name:
        return 0  # no other container in use says it
    try:
        frame = next(container.decode(video=0), None)
    except (OSError, ValueError, av.error.FFmpegError):
        return 0  # why it cannot be decoded is found out, and said, later
    angle = frame.rotation if frame is not None else 0
    return round(angle / 90) % 4 if abs(angle) <= 360 else 0  # other numbers: it is no rotation


def _duration(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Fraction | None:
    """Return the seconds that the stream, or else the container, says it lasts."""
    if stream.duration and stream.time_base:
        return Fraction(stream.duration * stream.time_base)
    return Fraction(container.duration, av.time_base) if container.duration else None


def _decode_with_pytorchvideo(
    path: str, header: _Header, spec: ClipSpec, moment: Fraction
) -> torch.Tensor | None:
    """Return the clip's frames, or None where pytorchvideo finds none or would hold too many."""
    stretches = _stretches(header, spec, moment)
    if not header.is_timed and header.num_frames is None:
        return None  # it may be hours, and pytorchvideo would hold them
    num_held = max(stretch.num_frames for stretch in stretches)
    if num_held * header.height * header.width * 3 > _MAX_HELD_BYTES:
        return None
    try:
        with open(path, "rb") as file:
            video = EncodedVideoPyAV(file, path, decode_audio=False)
            try:
                found = [_cut(video, stretch, spec, moment) for stretch in stretches]
            finally:
                video.close()
    except (RuntimeError, TypeError, ValueError, ArithmeticError, av.error.FFmpegError):
        return None
    kept = [frames_THWC for frames_THWC in found if frames_THWC is not None]
    return torch.cat(kept) if len(kept) == len(stretches) else None


def _stretches(header: _Header, spec: ClipSpec, moment: Fraction) -> list[_Stretch]:
    """Decide which parts of the video to decode.

    The whole of a short video is decoded and its frames counted, so that the choice does not hang
    on what the header claims. Of a long one, only what the clip needs; unless the stream does not
    say how long it is, when pytorchvideo decodes all of it in any case.
    """
    num_frames, rate = header.num_frames, header.rate
    is_short = not num_frames or num_frames <= 2 * spec.frames * spec.stride
    if not num_frames or not rate or is_short or not header.is_timed:
        end = Fraction(10**6)
        return [_Stretch(start=Fraction(0), end=end, num_frames=num_frames or 0, is_whole=True)]
    indices = sample_indices(num_frames, spec, moment)
    pairs = [(i, i) for i in indices] if spec.sampling == "uniform" else [(indices[0], indices[-1])]
    half = Fraction(1, 2)  # of a frame early and late: rounded time stamps take or drop none
    return [
        _Stretch(
            start=max(Fraction(0), (first - half) / rate),
            end=(last + half) / rate,
            num_frames=last - first + 1,
        )
        for first, last in pairs
    ]


def _cut(
    video: EncodedVideoPyAV, stretch: _Stretch, spec: ClipSpec, moment: Fraction
) -> torch.Tensor | None:
    frames_CNHW = video.get_clip(stretch.start, stretch.end)["video"]
    if frames_CNHW is None:
        return None
    num_frames = frames_CNHW.shape[1]
    if stretch.is_whole:
        indices = sample_indices(num_frames, spec, moment)
    elif spec.sampling == "uniform":
        indices = [0]
    elif num_frames < stretch.num_frames:
        return None  # a variable rate: seconds do not tell frames, so they have to be counted
    else:
        indices = [i * spec.stride for i in range(spec.frames)]
    picked: torch.Tensor = frames_CNHW[:, indices].permute(1, 2, 3, 0).to(torch.uint8)
    return picked


def _decode_with_pyav(path: str, header: _Header, spec: ClipSpec, moment: Fraction) -> torch.Tensor:
    """Read frame by frame, holding only those of the clip, scaled at once."""
    if header.num_frames:
        frames, _ = _read_frames(path, sample_indices(header.num_frames, spec, moment), spec)
        if len(frames) == spec.frames:
            return torch.stack(frames)
    _, num_frames = _read_frames(path, [], spec)  # the header was silent or wrong
    if not num_frames:
        raise UnreadableVideoError("it has no frames")
    frames, _ = _read_frames(path, sample_indices(num_frames, spec, moment), spec)
    return torch.stack(frames)


def _read_frames(path: str, indices: list[int], spec: ClipSpec) -> tuple[list[torch.Tensor], int]:
    """Return the frames at these indices that exist, and how many were seen (all, if none)."""
    wanted = set(indices)
    found: dict[int, torch.Tensor] = {}
    num_seen = 0
    with _opened(path) as container:
        for index, frame in enumerate(_frames_until_broken(container)):
            num_seen = index + 1
            if index in wanted:
                frame_HWC = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                found[index] = scale_short_side(frame_HWC[None], spec.short_side)[0]
                if len(found) == len(wanted):
                    break
    return [found[index] for index in indices if index in found], num_seen


def _frames_until_broken(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """Yield the frames up to the first one that cannot be decoded (a cut-off file has a start)."""
    frames = container.decode(video=0)
    num_frames = 0
    while True:
        try:
            frame = next(frames, None)
        except (OSError, ValueError, av.error.FFmpegError) as error:
            if not num_frames:
                raise UnreadableVideoError(_reason(error)) from error
            return
        if frame is None:
            return
        num_frames += 1
        yield frame


def _reason(error: Exception) -> str:
    """Give the decoder's message without its error number and the path, which is said already."""
    text = getattr(error, "strerror", None) or str(error)
    return text[0].lower() + text[1:] if text else type(error).__name__
