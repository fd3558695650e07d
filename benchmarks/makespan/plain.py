"""The list of configs as Ray's guide to tuning with Ray Train would train it.

A `Tuner` over a function that runs `TorchTrainer(...).fit()` with `TuneReportCallback`, and in it a
loop over clips that pytorchvideo decodes anew in every epoch. The model is torchvision's Video Swin
(`plain_training.py`), or with `steps="ours"` our model and its fast step, so that what differs is
the orchestration, the decoding, and that what is frozen is run in every epoch.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train.torch
import torch
from pytorchvideo.data.encoded_video import EncodedVideo
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from benchmarks.makespan.plain_training import plain_model, train_plainly
from vpetl_ray.data.demo import DEMO_CHECKPOINT
from vpetl_ray.models.arch import SwinArch, get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.training.loop import FineTuning
from vpetl_ray.training.recipe import Recipe
from vpetl_ray.tuning.cluster import ray_session

Steps = Literal["torchvision", "ours"]
NEAR_DRIVER = {"node:__internal_head__": 0.001}
"""What a trial's own actor asks for: no CPU, so that all of them train."""


@dataclass(frozen=True, kw_only=True)
class PlainTrial:
    """One config of the list."""

    id: str
    petl: dict[str, Any]
    recipe: dict[str, Any]


class DecodedVideos:
    """A split whose videos are decoded whenever a batch wants them."""

    train_views = 1

    def __init__(self, videos: Sequence[tuple[str, int]]) -> None:
        self._paths = [path for path, _ in videos]
        self.labels = torch.tensor([label for _, label in videos])

    def __len__(self) -> int:
        return len(self._paths)

    def batch(
        self, indices: Sequence[int] | torch.Tensor, *, epoch: int, train: bool
    ) -> torch.Tensor:
        return torch.stack([decode(self._paths[int(i)]) for i in indices])


def decode(path: str) -> torch.Tensor:
    """All frames of a video, which in the demo are a clip's 8, uint8 (T, H, W, C)."""
    video = EncodedVideo.from_path(path, decode_audio=False)
    frames_CTHW = video.get_clip(Fraction(0), Fraction(video.duration))["video"]
    video.close()
    clip_THWC: torch.Tensor = frames_CTHW.permute(1, 2, 3, 0).to(torch.uint8).contiguous()
    return clip_THWC


def train_one(config: dict[str, Any]) -> None:
    """Ray Train's function: one trial, from nothing."""
    arch = get_arch("swin3d_nano")
    assert isinstance(arch, SwinArch)
    recipe, petl = Recipe.from_dict(config["recipe"]), PetlConfig.from_dict(config["petl"])
    train, val = (DecodedVideos(config["videos"][split]) for split in ("train", "val"))
    num_classes, seed = config["num_classes"], config["seed"]
    if config["steps"] == "torchvision":
        model = plain_model(arch, num_classes, DEMO_CHECKPOINT, petl, seed=seed)
        epochs = train_plainly(model, train, val, recipe, seed=seed)
    else:
        epochs = _train_with_our_step(arch, num_classes, petl, train, val, recipe, seed)
    for epoch, top1 in enumerate(epochs, start=1):
        ray.train.report({"top1": top1, "epoch": epoch})
    Path(config["top1_file"]).write_text(str(top1))


def _train_with_our_step(
    arch: SwinArch,
    num_classes: int,
    petl: PetlConfig,
    train: DecodedVideos,
    val: DecodedVideos,
    recipe: Recipe,
    seed: int,
) -> Iterator[float]:
    model = build_model(arch, num_classes)
    load_backbone(model, DEMO_CHECKPOINT)
    tuning = FineTuning(model, attach(model, petl, seed=seed), train, val, recipe, seed=seed)
    while not tuning.done:
        yield tuning.run_epoch().top1


def run_plain(
    trials: Sequence[PlainTrial],
    *,
    videos: dict[str, list[tuple[str, int]]],
    num_classes: int,
    seed: int,
    num_concurrent: int,
    steps: Steps,
    results: Path,
) -> float:
    """Train them, a line for each in `results`; returns seconds, Ray's start among them."""
    start = time.monotonic()
    with ray_session(), tempfile.TemporaryDirectory() as folder:
        shared = ray.put(videos)

        def run_trial(config: dict[str, Any]) -> None:
            started = time.time()
            trial: PlainTrial = config["trial"]
            top1_file = Path(folder) / f"{trial.id}.top1"
            ray.train.torch.TorchTrainer(
                train_one,
                train_loop_config={
                    "petl": trial.petl,
                    "recipe": trial.recipe,
                    "videos": ray.get(shared),
                    "num_classes": num_classes,
                    "seed": seed,
                    "steps": steps,
                    "top1_file": str(top1_file),
                },
                scaling_config=ray.train.ScalingConfig(
                    num_workers=1, resources_per_worker={"CPU": 1}
                ),
                run_config=ray.train.RunConfig(
                    name=trial.id, storage_path=folder, callbacks=[TuneReportCallback()]
                ),
            ).fit()
            top1 = float(top1_file.read_text())
            row = {"id": trial.id, "top1": top1, "start": started, "end": time.time()}
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")

        tuner = tune.Tuner(
            tune.with_resources(run_trial, tune.PlacementGroupFactory([NEAR_DRIVER])),
            param_space={"trial": tune.grid_search(list(trials))},
            tune_config=tune.TuneConfig(max_concurrent_trials=num_concurrent),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        found = tuner.fit()
        if found.num_errors:
            raise SystemExit(f"{found.num_errors} plain trials failed: {found.errors[0]}")
    return time.monotonic() - start
