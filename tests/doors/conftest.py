"""A tiny data set of real mp4 files and a small space, so that a whole search takes seconds."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples of every method, servers

from vpetl_ray.data.demo import encode_mp4
from vpetl_ray.inference.find import choose_member

SPEC = """\
name: tiny
seed: 3
data: {source: folder, path: videos, frames: 4, stride: 1, size: 32, train_crop: centre, flip: 0}
backbone: {arch: swin3d_nano, weights: demo}
petl:
  patt:
    targets: {subset: [q, k, v]}
    d_bottle: {choice: [2, 4, 64]}
    stages: {subset: [2, 3], min: 1}
training:
  learning_rate: {float: [0.002, 0.02], log: true}
  epochs: 2
  batch_size: 4
  probe_epochs: 3
budget: {trainable_params: 12k}
search: {trials: 4, start: [linear_probe]}
"""


def _moving_square(seed: int, *, to_right: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, size=(6, 32, 32, 3), dtype=np.uint8)
    row = int(rng.integers(4, 20))
    for t in range(6):
        column = 3 * t if to_right else 20 - 3 * t
        frames[t, row : row + 8, column : column + 8] = 220
    return frames


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of moving squares in the Kinetics layout."""
    return write_videos(tmp_path_factory.mktemp("data") / "videos")


def write_videos(root: Path) -> Path:
    for split, count in {"train": 8, "val": 4, "test": 4}.items():
        for label in ("left", "right"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                seed = i + 100 * len(split)
                encode_mp4(_moving_square(seed, to_right=label == "right"), folder / f"{i:02d}.mp4")
    return root


@pytest.fixture
def spec_file(tmp_path: Path, videos: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC.replace("path: videos", f"path: {videos}"))
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


Run = Callable[..., subprocess.CompletedProcess[str]]


def call_door(
    door: str, *words: object, cwd: Path, cache: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a door as a user does: another process."""
    return subprocess.run(
        [sys.executable, "-m", f"vpetl_ray.{door}", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "VPETL_CACHE": str(cache), **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def run(tmp_path: Path, cache: Path) -> Run:
    """Run a door in another working directory."""

    def call(door: str, *words: object, cwd: Path = tmp_path, **env: str):
        return call_door(door, *words, cwd=cwd, cache=cache, **env)

    return call


@pytest.fixture(scope="session")
def search(videos: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a search of three trials, and give its folder."""
    folder = tmp_path_factory.mktemp("searched")
    spec = folder / "tiny.yaml"
    spec.write_text(SPEC.replace("path: videos", f"path: {videos}"))
    out = folder / "runs" / "tiny"
    done = call_door(
        "search", spec, "--out", out, "--trials", 3, "--set", "resources.groups=1",
        cwd=folder, cache=cache,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def trained_again(search: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the best of the front again, by the very command of its model card."""
    best = choose_member(search, "best")["id"]
    card = (search / "adapters" / f"{best}.md").read_text()
    [line] = [line for line in card.splitlines() if "vpetl_ray.finetune" in line]
    python, dash_m, module, *words = shlex.split(line)
    assert (python, dash_m, module) == ("python", "-m", "vpetl_ray.finetune")
    out = tmp_path_factory.mktemp("again") / "finetune"
    done = call_door("finetune", *words, "--out", out, cwd=search.parents[1], cache=cache)
    assert done.returncode == 0, done.stderr
    return out
