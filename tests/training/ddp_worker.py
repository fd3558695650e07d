"""One of the processes of test_ddp: `python ddp_worker.py RANK WORLD_SIZE FOLDER`."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))

from toy_training import (
    BAPAT,
    EVERY_METHOD,
    LAST_STAGE,
    RECIPE,
    FakeClips,
    FakeViews,
    configs_for,
    family_model,
    toy_model,
)

from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.training.evaluation import evaluate, evaluate_views
from vpetl_ray.training.features import FeatureCache
from vpetl_ray.training.loop import FineTuning, TrainingDiverged

# Shares of a batch of 9 differ by a clip. Plain gradients: Adam would make rounding large.
RECIPE_OF_ALL = replace(RECIPE, batch_size=9, grad_clip=1.0, optimizer="sgd", learning_rate=0.05)


class Case(NamedTuple):
    name: str
    model: Backbone
    config: PetlConfig
    epochs: int
    num_clips: int
    has_cache: bool = False
    has_views: bool = False
    num_parts: int = 1
    """Of a step, where two workers share it."""


def cases() -> Iterator[Case]:
    toy = toy_model()
    yield Case("bapat", toy, BAPAT, 3, 50, has_views=True)
    yield Case("cached", toy, LAST_STAGE, 3, 50, has_cache=True, has_views=True)
    yield Case("parts", toy, BAPAT, 3, 50, num_parts=4)
    yield Case("probe", toy, PetlConfig(), 5, 50, has_views=True)
    models = {family: family_model(family) for family, _ in EVERY_METHOD}
    for family, name in EVERY_METHOD:
        yield Case(f"{name}-{family}", models[family], configs_for(family)[name], 1, 22)


def main(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    workers = {"rank": rank, "world_size": world_size}
    results = {case.name: train(case, workers) for case in cases()}
    results["diverged"] = diverge(workers)
    torch.save(results, folder / f"{world_size}-{rank}.pt")
    if world_size > 1:
        dist.destroy_process_group()


def train(case: Case, workers: dict[str, int]) -> dict[str, Any]:
    clips, val = FakeClips(case.num_clips, seed=1), FakeClips(11, seed=2)
    attached = attach(case.model, case.config, seed=0)
    cache = FeatureCache() if case.has_cache else None
    recipe = replace(RECIPE_OF_ALL, epochs=case.epochs, probe_epochs=case.epochs)
    parts = case.num_parts if workers["world_size"] > 1 else 1
    tuning = FineTuning(
        case.model, attached, clips, val, recipe, seed=0, features=cache, num_parts=parts, **workers
    )
    epochs = [tuning.run_epoch() for _ in range(tuning.num_epochs)]
    final = evaluate(case.model, val, keep_predictions=True, **workers)
    views = FakeViews(23, seed=2) if case.has_views else None
    measured = views and evaluate_views(
        case.model, views, batch_size=5, keep_predictions=True, **workers
    )
    state = attached.state_dict()
    attached.detach()
    return {
        "views": [measured.top1, measured.loss, *measured.predictions.tolist()] if measured else [],
        "train_loss": [epoch.train_loss for epoch in epochs],
        "loss": [epoch.loss for epoch in epochs],
        "predictions": final.predictions.tolist(),
        "weights": state,
    }


def diverge(workers: dict[str, int]) -> str:
    model, clips = toy_model(), FakeClips(50, seed=1)
    attached = attach(model, BAPAT, seed=0)
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e30)
    try:
        FineTuning(model, attached, clips, clips, recipe, seed=0, **workers).run_epoch()
    except TrainingDiverged as error:
        return str(error)
    finally:
        attached.detach()
    return "it did not"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
