"""One of the processes of test_ddp: `python ddp_worker.py RANK WORLD_SIZE FOLDER`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))

from toy_training import ARCHS, BAPAT, LAST_STAGE, RECIPE, FakeClips, FakeViews, toy_model

from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import (
    BitFitConfig,
    FullConfig,
    LoraConfig,
    PattConcatConfig,
    PattNoZConfig,
    PositionConfig,
    PrefixConfig,
    PromptConfig,
    StAdapterConfig,
)
from vpetl_ray.training.evaluation import evaluate, evaluate_views
from vpetl_ray.training.features import FeatureCache
from vpetl_ray.training.loop import FineTuning, TrainingDiverged

MIX = PetlConfig(
    methods=(
        LoraConfig(targets=("q", "proj", "fc1", "fc2"), rank=2),
        StAdapterConfig(d_bottle=2),
        PrefixConfig(num_tokens=2, d_middle=3),
        PromptConfig(num_tokens=2, way="overlap"),
        PattConcatConfig(d_bottle=2),
        PattNoZConfig(targets=("k", "v"), d_bottle=2),
        PositionConfig(kinds=("norm1",)),
        BitFitConfig(stages=(2,)),
    )
)
CONFIGS = {
    "bapat": ("swin", BAPAT),
    "cached": ("swin", LAST_STAGE),
    "probe": ("swin", PetlConfig()),
    "vit": ("vit", BAPAT),
    "mix": ("swin", MIX),
    "vit mix": ("vit", MIX),
    "vit full": ("vit", PetlConfig(methods=(FullConfig(),))),
}


def main(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    models = {family: toy_model(family) for family in ARCHS}
    train, val = FakeClips(50, seed=1), FakeClips(23, seed=2)
    recipe = replace(RECIPE, batch_size=9, grad_clip=1.0, optimizer="sgd", learning_rate=0.05)
    workers = {"rank": rank, "world_size": world_size}
    results = {}
    for name, (family, config) in CONFIGS.items():
        model = models[family]
        attached = attach(model, config, seed=0)
        cache = FeatureCache() if name == "cached" else None
        tuning = FineTuning(model, attached, train, val, recipe, seed=0, features=cache, **workers)
        epochs = [tuning.run_epoch() for _ in range(tuning.num_epochs)]
        final = evaluate(model, val, keep_predictions=True, **workers)
        views = evaluate_views(
            model, FakeViews(23, seed=2), batch_size=5, keep_predictions=True, **workers
        )
        results[name] = {
            "views": [views.top1, views.loss, *views.predictions.tolist()],
            "train_loss": [epoch.train_loss for epoch in epochs],
            "loss": [epoch.loss for epoch in epochs],
            "predictions": final.predictions.tolist(),
            "weights": {k: v.tolist() for k, v in tuning.state_dict()["trainable"].items()},
        }
        attached.detach()
    results["diverged"] = diverge(models["swin"], train, val, workers)
    (folder / f"{world_size}-{rank}.json").write_text(json.dumps(results))
    if world_size > 1:
        dist.destroy_process_group()


def diverge(model, train, val, workers) -> str:
    attached = attach(model, BAPAT, seed=0)
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e30)
    try:
        FineTuning(model, attached, train, val, recipe, seed=0, **workers).run_epoch()
    except TrainingDiverged as error:
        return str(error)
    finally:
        attached.detach()
    return "it did not"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
