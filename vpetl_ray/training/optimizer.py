"""The optimiser over what is trained."""

from typing import Any

import torch
from torch import Tensor

from vpetl_ray.petl.attach import Attached
from vpetl_ray.training.recipe import Recipe


def make_optimizer(
    attached: Attached, recipe: Recipe, learning_rate: float
) -> torch.optim.Optimizer:
    """Build the recipe's optimiser; matrices decay, biases, norms and scales do not.

    Fused on every device: for the 50 small tensors of a trial on the CPU a step takes 0.24 ms with
    AdamW (foreach 0.88, plain 1.4) and 0.09 ms with SGD (0.23, 0.36).
    """
    parameters = list(attached.trainable.values())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def copy_to_cpu(value: Any) -> Any:
    """Copy a nest of dicts and lists, so that later steps do not change it."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: copy_to_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_to_cpu(item) for item in value]
    return value
