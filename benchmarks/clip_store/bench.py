"""Reading a clip from the store against pytorchvideo decoding it, same clips, one run.

    python -m benchmarks.clip_store.bench [--quick]

Two sets of real h264 files of moving texture, made here: `small` (8 frames of 32 x 32, the embedded
demo's form) and `camera` (100 frames of 340 x 256, of which a clip takes 8, two apart).

Decoding is what pytorchvideo's users write: `EncodedVideo.from_path`, `get_clip` of the clip's
seconds, pick the frames, bytes. Reading is `StoredClips.batch`: bytes out of the mapped file into
a tensor of the caller's own. Both in this process, one thread, files in the page cache, clips in
the same random order.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from pytorchvideo.data.encoded_video import EncodedVideo

from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ClipSpec, ViewSpec
from vpetl_ray.data.data_set import DataSet, VideoItem
from vpetl_ray.data.stored_clips import StoredClips

FLOOR = 20.0
RATE = 25


@dataclass(frozen=True, kw_only=True)
class Workload:
    name: str
    data_set: DataSet
    spec: ClipSpec
    view: ViewSpec
    seconds: tuple[float, float]
    """The clip's stretch of a video, for pytorchvideo."""


def small(folder: Path, num_videos: int) -> Workload:
    return Workload(
        name="small",
        data_set=make_videos(folder, num_videos, num_frames=8, width=32, height=32),
        spec=ClipSpec(frames=8, stride=1, short_side=32),
        view=ViewSpec(size=32, train_crop="centre", flip=0),
        seconds=(0, 8 / RATE),
    )


def camera(folder: Path, num_videos: int) -> Workload:
    first = (100 - 16 + 1) // 2
    return Workload(
        name="camera",
        data_set=make_videos(folder, num_videos, num_frames=100, width=340, height=256),
        spec=ClipSpec(frames=8, stride=2, short_side=256),
        view=ViewSpec(size=224, train_crop="random", flip=0.5),
        seconds=((first - 0.5) / RATE, (first + 14.5) / RATE),
    )


def make_videos(
    folder: Path, num_videos: int, *, num_frames: int, width: int, height: int
) -> DataSet:
    root = folder / f"{width}x{height}"
    root.mkdir()
    items = tuple(
        VideoItem(path=str(root / f"{index:03d}.mp4"), label=0) for index in range(num_videos)
    )
    for seed, item in enumerate(items):
        write_moving_texture(item.path, seed, num_frames, width, height)
    return DataSet(name=root.name, root=root, classes=("any",), splits={"train": items})


def write_moving_texture(path: str, seed: int, num_frames: int, width: int, height: int) -> None:
    """Encode smoothed noise that drifts, with grain: about what a camera makes an encoder do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 10, width // 12 + 10, 3), dtype=np.uint8)
    texture = np.kron(coarse, np.ones((12, 12, 1), np.uint8)).astype(np.float32)
    for axis in (0, 1):
        texture = np.mean([np.roll(texture, shift, axis) for shift in range(-6, 7)], axis=0)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            view = texture[index : index + height, index : index + width]
            image = np.clip(view + rng.normal(0, 4, view.shape), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def decode_as_users_do(path: str, work: Workload) -> torch.Tensor:
    video = EncodedVideo.from_path(path, decode_audio=False, decoder="pyav")
    frames_CNHW = video.get_clip(*work.seconds)["video"]
    video.close()
    picked_CTHW = frames_CNHW[:, :: work.spec.stride][:, : work.spec.frames]
    return picked_CTHW.permute(1, 2, 3, 0).to(torch.uint8).contiguous()


def median_seconds(run: Callable[[int], object], indices: Sequence[int]) -> float:
    times = []
    for index in indices:
        start = time.perf_counter()
        run(index)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(work: Workload, folder: Path, num_processes: int) -> list[Figure]:
    ticks = [time.perf_counter()]
    path = build_clip_store(
        work.data_set,
        work.spec,
        folder,
        num_processes=num_processes,
        progress=lambda _: ticks.append(time.perf_counter()),
    )
    [(split, items)] = work.data_set.splits.items()
    store = ClipStore.open(path)
    plain = ViewSpec(size=work.spec.short_side, train_crop="centre", flip=0)
    clips = store.split(split, plain)
    order = np.random.default_rng(0).permutation(len(clips)).tolist()
    for index in order[:5]:
        check_same(clips, index, decode_as_users_do(items[index].path, work))
    decoding = median_seconds(lambda i: decode_as_users_do(items[i].path, work), order)
    fresh = ClipStore.open(path).split(split, plain)
    first = median_seconds(lambda i: fresh.batch([i], epoch=1, train=True), order)
    later = median_seconds(lambda i: fresh.batch([i], epoch=1, train=True), order * 3)
    seen_clips = store.split(split, work.view)
    seen = median_seconds(lambda i: seen_clips.batch([i], epoch=1, train=True), order * 2)
    batches = [order[i : i + 32] for i in range(0, len(order), 32)]
    rows = median_seconds(
        lambda b: fresh.batch(batches[b], epoch=1, train=True), range(len(batches))
    ) / len(batches[0])
    name = work.name

    def figure(what: str, value: float, unit: str, floor: float | None = None) -> Figure:
        return Figure(figure=f"{name}: {what}", value=value, unit=unit, floor=floor)

    return [
        figure("pytorchvideo decodes a clip in", decoding * 1e3, "ms"),
        figure("store reads a clip in, at random", later * 1e3, "ms"),
        figure("... the first time (checksum)", first * 1e3, "ms"),
        figure("... in a batch of 32, per clip", rows * 1e3, "ms"),
        figure("... with the training view (crop, flip)", seen * 1e3, "ms"),
        figure("store against decoding", decoding / later, "x", FLOOR),
        figure("store's first read against decoding", decoding / first, "x", FLOOR),
        figure(f"prepare, {num_processes} processes, to the first clip", ticks[1] - ticks[0], "s"),
        figure("... then", (len(items) - 1) / (ticks[-1] - ticks[1]), "clips/s"),
    ]


def check_same(clips: StoredClips, index: int, decoded: torch.Tensor) -> None:
    """Both ways must give the same bytes, or the comparison is of nothing."""
    if not torch.equal(clips.clip(index), decoded):
        raise SystemExit(f"the store's clip {index} is not the decoded one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few clips, nothing written")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (40, 12) if arguments.quick else (600, 64)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for workload, num_videos in zip((small, camera), sizes, strict=True):
            work = workload(Path(folder), num_videos)
            figures += measure(work, Path(folder), arguments.processes)
    print_figures("Clip store", figures)
    if not arguments.quick:
        write_summary(Path(__file__).parent, figures)


if __name__ == "__main__":
    main()
