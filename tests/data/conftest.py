"""Real video files, encoded here, and the folders they come in."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from vpetl_ray.data.data_set import DataSet, VideoItem
from vpetl_ray.data.folder import list_folder

VideoMaker = Callable[..., Path]


def frame_value(index: int) -> int:
    """The grey value of frame `index`, far enough from its neighbours' to survive encoding."""
    return (10 + 20 * index) % 250


@pytest.fixture(scope="session")
def make_video() -> VideoMaker:
    """Encodes a video whose frames are told apart by their grey, their left half darker."""

    def make(
        path: Path,
        *,
        num_frames: int = 12,
        width: int = 48,
        height: int = 32,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rate: int = 25,
        shade: int = 0,
        pts: list[int] | None = None,
        rotation: int = 0,
        with_audio: bool = False,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            if rotation:
                stream.set_display_rotation(rotation)
            audio = container.add_stream("libopus", rate=48000) if with_audio else None
            for index in range(num_frames):
                image = np.full((height, width, 3), frame_value(index) + shade, np.uint8)
                image[:, : width // 2] //= 2
                frame = av.VideoFrame.from_ndarray(image, "rgb24")
                if pts is not None:
                    frame.pts = pts[index]
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if audio is not None:
                sound = np.zeros((1, 48000 * num_frames // rate), np.float32)
                noise = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
                noise.sample_rate = 48000
                container.mux(audio.encode(noise))
                container.mux(audio.encode())
        if hasattr(os, "sched_setscheduler"):
            # As root, SVT-AV1 makes the process a real-time one, and with it all that is started
            # here from now on, beside which the tests of another process stand still.
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return path

    return make


@pytest.fixture
def videos(tmp_path: Path, make_video: VideoMaker) -> Path:
    """A small set of two classes with splits: 6 train, 2 val and 4 test videos."""
    root = tmp_path / "videos"
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for shade, label in enumerate(("jump", "sit")):
            for i in range(count):
                make_video(root / split / label / f"{i}.mp4", shade=3 * i + shade)
    return root


@pytest.fixture
def data_set(videos: Path) -> DataSet:
    return list_folder("folder", videos, val_share=0.2, split_seed=0)


def one_split(root: Path, *paths: Path) -> DataSet:
    """A data set of these files alone, all of class 0 and all in train."""
    items = tuple(VideoItem(path=str(path), label=0) for path in paths)
    return DataSet(name="folder", root=root, classes=("a",), splits={"train": items})
