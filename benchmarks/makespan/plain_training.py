"""One config as a plain script trains it: torchvision's model, an optimiser, a loop.

The methods are put in by replacing forwards (`benchmarks.step.peers`), start from the values that
ours start from, and see the clips in the same order: what comes out must be equal but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.step.peers import (
    Adapter,
    Bottleneck,
    Patt,
    copy_trainable,
    insert_into_swin,
    plain_swin,
)
from vpetl_ray.models.arch import BlockSite, SwinArch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.models.swin_weights import from_torchvision
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig, PattConfig
from vpetl_ray.petl.seeding import seeded
from vpetl_ray.training.clips import ClipSource
from vpetl_ray.training.recipe import Recipe, learning_rate_factor

_EVALUATION_BATCH = 64


def plain_model(
    arch: SwinArch, num_classes: int, weights: Path, petl: PetlConfig, *, seed: int
) -> nn.Module:
    """torchvision's Video Swin with the same weights, methods and start as ours."""
    ours = build_model(arch, num_classes)
    load_backbone(ours, weights)
    attached = attach(ours, petl, seed=seed)
    peer = plain_swin(arch, num_classes)
    tensors = {**ours.state_dict(), **attached.backbone_state()}
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            parameter.copy_(tensors[from_torchvision(name)])
    peer.requires_grad_(requires_grad=False)
    insert_into_swin(peer, arch, lambda site: _methods_at(site, petl))
    peer.head.requires_grad_(petl.train_classifier)
    copy_trainable(attached, peer)
    return peer


def _methods_at(site: BlockSite, petl: PetlConfig) -> dict[str, Bottleneck]:
    found: dict[str, Bottleneck] = {}
    for method in petl.methods:
        if site.stage not in (method.stages or (site.stage,)):
            continue
        match method:
            case AdapterConfig(scale=float(scale), activation="relu", blocks=None):
                is_sequential = method.placement == "sequential"
                found["adapter"] = Adapter(
                    site.dim, method.d_bottle, scale=scale, is_sequential=is_sequential
                )
            case PattConfig(scale=float(scale), activation="tanh", blocks=None):
                found["patt"] = Patt(site.dim, method.d_bottle, targets=method.targets, scale=scale)
            case _:
                raise NotImplementedError(f"the plain side cannot train {method}")
    return found


def train_plainly(
    model: nn.Module, train: ClipSource, val: ClipSource, recipe: Recipe, *, seed: int
) -> Iterator[float]:
    """Train, and yield the validation accuracy in percent after every epoch.

    Where the classifier alone is trained, the features it sees are computed once.
    """
    head = model.head
    is_probe = not any(isinstance(module, Bottleneck) for module in model.modules())
    read = _features_of(model, train, recipe) if is_probe else _reader(train)
    read_val = _features_of(model, val, recipe) if is_probe else _reader(val)
    network = head if is_probe else model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = recipe.probe_learning_rate if is_probe else recipe.learning_rate
    num_epochs = recipe.probe_epochs if is_probe else recipe.epochs
    num_steps = len(train) // recipe.batch_size
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(
            recipe.schedule, step, total_steps=num_epochs * num_steps, warmup_steps=0
        ),
    )
    for epoch in range(1, num_epochs + 1):
        model.train()
        order = torch.randperm(len(train), generator=seeded(seed, "order", epoch))
        for indices in order.split(recipe.batch_size)[:num_steps]:
            optimizer.zero_grad()
            with _autocast(recipe):
                logits = network(read(indices))
            labels = train.labels[indices]
            loss = cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
            loss.backward()
            if recipe.grad_clip is not None:
                nn.utils.clip_grad_norm_(parameters, recipe.grad_clip)
            optimizer.step()
            scheduler.step()
        model.eval()
        yield _evaluate(network, read_val, val, recipe)


def _reader(source: ClipSource) -> Callable[[Tensor], Tensor]:
    return lambda indices: clips_to_input(source.batch(indices, epoch=0, train=False))


def _features_of(
    model: nn.Module, source: ClipSource, recipe: Recipe
) -> Callable[[Tensor], Tensor]:
    read, head = _reader(source), model.head
    model.eval()
    model.head = nn.Identity()
    with torch.inference_mode(), _autocast(recipe):
        parts = [model(read(some)) for some in torch.arange(len(source)).split(_EVALUATION_BATCH)]
    model.head = head
    features = torch.cat(parts).float().clone()
    return lambda indices: features[indices]


def _evaluate(
    network: nn.Module, read: Callable[[Tensor], Tensor], source: ClipSource, recipe: Recipe
) -> float:
    num_right = 0
    with torch.inference_mode(), _autocast(recipe):
        for indices in torch.arange(len(source)).split(_EVALUATION_BATCH):
            predictions = network(read(indices)).argmax(1)
            num_right += int((predictions == source.labels[indices]).sum())
    return 100 * num_right / len(source)


def _autocast(recipe: Recipe) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16")
