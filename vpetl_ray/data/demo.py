"""The embedded demo: real handwriting scans in motion, made once as real mp4 files.

Two tasks that share nothing but the idea. The *source* task, for pretraining only, shows light
digits on dark noise in ten single motions. The *target* task, which is searched on, shows dark
coloured digits on tinted crops of photographs in twelve compositions of motions. The scans are
scikit-learn's digits, the photographs its two samples; no scan is in two splits or in both tasks.

    root/train/left_then_up/0007.mp4        root/manifest.json

Every clip is drawn from a generator of its own (seed, task, split, number), so the files do not
depend on how many processes make them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vpetl_ray.data.demo_clips import TASKS, TaskName, class_name, draw_clip
from vpetl_ray.data.demo_motion import TARGET_MOTIONS
from vpetl_ray.data.file_lock import file_lock
from vpetl_ray.errors import DataError

DEMO_CHECKPOINT = Path(__file__).parent.parent / "demo" / "swin3d_nano_digits.safetensors"
"""The nano Video Swin that was pretrained on the source task; see the model card beside it."""

FORMAT_VERSION = 4
"""Counted up with every change to what the files hold, so that old ones are made again."""
_MANIFEST = "manifest.json"
_FRAME_RATE = 8
_CLIPS_A_TASK = 20
_ENCODER = {
    "crf": "16",  # digits of 15 pixels stay sharp at 2 kB a clip
    "preset": "veryfast",
    # With x264's lookahead on, one clip in twenty has other bytes on another run at this size.
    "x264-params": "bframes=0:scenecut=0:weightp=0:no-mbtree=1:rc-lookahead=0:sync-lookahead=0",
}


@dataclass(frozen=True, kw_only=True)
class _Clip:
    task: TaskName
    split: str
    index: int
    seed: int

    @property
    def class_name(self) -> str:
        return class_name(self.task, self.index)

    @property
    def file(self) -> str:
        number = self.index // len(TASKS[self.task].motions)
        return f"{self.split}/{self.class_name}/{number:04d}.mp4"


def demo_classes() -> tuple[str, ...]:
    """Return the target task's classes in the order of their labels."""
    return tuple(sorted(TARGET_MOTIONS))


def make_demo_videos(root: Path, *, seed: int = 0, num_processes: int = 1) -> Path:
    """Make the target task's videos in ``root``, unless they are there already.

    Args:
        root: the folder to make, with one sub-folder a split (train, val, test) and class in it.
        seed: another seed gives other clips of the same task.
        num_processes: how many processes draw and encode.

    Returns:
        ``root``, whole: it appears under its name only when every file is in it.

    Raises:
        DataError: ``root`` holds files that are not this demo's, or cannot be written.
    """
    return make_task_videos("target", root, seed=seed, num_processes=num_processes)


def make_task_videos(task: TaskName, root: Path, *, seed: int, num_processes: int = 1) -> Path:
    """Like `make_demo_videos`, for the source task too."""
    wanted = {"format": FORMAT_VERSION, "task": task, "seed": seed}
    if _is_whole(root, wanted):
        return root
    _refuse_foreign(root)
    try:
        with file_lock(root.with_name(f".{root.name}.lock")):
            if not _is_whole(root, wanted):  # another process may just have made them
                _make(list(_clips(task, seed)), root, wanted, num_processes)
    except OSError as error:
        raise DataError(f"the demo's videos cannot be written to {root}: {error}") from error
    return root


def _make(clips: list[_Clip], root: Path, wanted: Mapping[str, object], num_processes: int) -> None:
    """Write into a scratch folder, which then takes the place of what was there."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        made = scratch / "made"
        _write_all(clips, made, num_processes)
        content = {"num_files": len(clips), "sha256": _content_hash(made)}
        (made / _MANIFEST).write_text(json.dumps({**wanted, **content}, indent=2) + "\n")
        if root.exists():
            root.rename(scratch / "old")
        made.rename(root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(root: Path, wanted: Mapping[str, object]) -> bool:
    try:
        manifest = json.loads((root / _MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    same_recipe = all(manifest.get(key) == value for key, value in wanted.items())
    return same_recipe and manifest.get("sha256") == _content_hash(root)


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not (root / _MANIFEST).is_file() and any(root.iterdir()):
        raise DataError(
            f"the demo's videos cannot be written to {root}: it holds other files; "
            "name an empty or a new folder"
        )


def _content_hash(root: Path) -> str:
    """One hash over the names and bytes of all videos below ``root``."""
    digest = hashlib.sha256()
    for path in sorted(root.glob("*/*/*.mp4")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _clips(task: TaskName, seed: int) -> Iterator[_Clip]:
    for split, num_clips in TASKS[task].num_clips.items():
        for index in range(num_clips):
            yield _Clip(task=task, split=split, index=index, seed=seed)


def _write_all(clips: list[_Clip], root: Path, num_processes: int) -> None:
    for folder in {(root / clip.file).parent for clip in clips}:
        folder.mkdir(parents=True)
    if num_processes <= 1:
        _write_some(clips, root)
        return
    shares = [clips[start : start + _CLIPS_A_TASK] for start in range(0, len(clips), _CLIPS_A_TASK)]
    spawn = get_context("spawn")
    with ProcessPoolExecutor(num_processes, spawn, initializer=_leave_ctrl_c) as pool:
        try:
            for written in [pool.submit(_write_some, share, root) for share in shares]:
                written.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_ctrl_c() -> None:
    """A terminal sends it to all processes; the first of them ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_some(clips: list[_Clip], root: Path) -> None:
    for clip in clips:
        encode_mp4(draw_clip(clip.task, clip.split, clip.index, seed=clip.seed), root / clip.file)


def encode_mp4(frames_THWC: NDArray[np.uint8], path: Path) -> None:
    """Write frames as H.264 in an mp4 file, the same bytes on every run."""
    with av.open(os.fspath(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=_FRAME_RATE, options=_ENCODER)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the bytes depend on the number of threads
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
