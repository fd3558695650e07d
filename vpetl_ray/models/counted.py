"""Torch's counter of floating-point operations, with what its own table lacks."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vpetl_ray.models.linear import ONEDNN_LINEAR

Shape = Sequence[int]


def _linear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(x) * weight[0]


def _accumulated(out: Shape, a: Shape, b: Shape, **_: Any) -> int:
    return 2 * prod(a) * b[-1]


_FORMULAS: Mapping[Any, Callable[..., int]] = {
    torch.ops.aten.addmm_: _accumulated,
    torch.ops.aten.baddbmm_: _accumulated,
    **({} if ONEDNN_LINEAR is None else {ONEDNN_LINEAR: _linear}),
}


def flop_counter() -> FlopCounterMode:
    """Count the matrix products and convolutions of what runs inside, forward and backward."""
    return FlopCounterMode(display=False, custom_mapping=dict(_FORMULAS))
