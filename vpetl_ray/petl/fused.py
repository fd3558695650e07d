"""Frozen layers and the bottleneck beside them as one step of autograd.

Each on its own, they pass over memory for what could ride along: the bias of the up-projection is
added to a whole output, and the gradients of one input come back as two tensors to be summed. Here
both biases are one, and every product after the first accumulates in place (2 to 4% of a step on
CPU for either). The layer's weights must be frozen: they get no gradient. Under autocast all
products run in its type, with weights that were cast once.

Axes: R rows (every leading axis flattened), C channels, D the bottleneck's width, O output columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vpetl_ray.models.blocks import Mlp, bias_of
from vpetl_ray.models.linear import as_autocast, is_plain, linear

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation and its derivative."""

    run: Callable[[Tensor], Tensor]
    """From what enters; where `keeps_output`, that is overwritten."""
    backward: Callable[[Tensor, Tensor], Tensor]
    """(gradient of what leaves, what was kept) to the gradient of what entered."""
    keeps_output: bool
    """Whether what is kept is what leaves; else it is what entered."""


def _relu_backward(grad: Tensor, y: Tensor) -> Tensor:
    result: Tensor = aten.threshold_backward(grad, y, 0)
    return result


ACTIVATIONS: Mapping[str, Activation] = {
    "relu": Activation(run=torch.relu_, backward=_relu_backward, keeps_output=True),
    "tanh": Activation(run=torch.tanh_, backward=aten.tanh_backward, keeps_output=True),
    "gelu": Activation(run=nn.functional.gelu, backward=aten.gelu_backward, keeps_output=False),
}


class Side(NamedTuple):
    """A bottleneck, for one call."""

    down_weight: Tensor
    """(D, C)."""
    down_bias: Tensor
    """(D)."""
    up_weight: Tensor
    """(O, D)."""
    up_bias: Tensor
    """(O)."""
    scale: float
    """Factor on all that leaves."""


def linear_with_side(
    x: Tensor, layer: nn.Linear, side: Side, activation: str, runs: tuple[slice, ...]
) -> Tensor | None:
    """`layer(x)`, with the bottleneck of x added to some of its columns.

    Args:
        x: (..., C).
        layer: frozen.
        side: the bottleneck.
        activation: a key of `ACTIVATIONS`.
        runs: slices of the layer's columns, in order, that the O columns are added to.

    Returns:
        (..., columns), or None where this way is not open: the caller takes the plain one.

    """
    bias = bias_of(layer)
    if bias is None or not _is_open(layer.weight, bias):
        return None
    x, *weights = as_autocast(x, layer.weight, bias)
    columns: Tensor = _LinearWithSide.apply(x, *side, weights, activation, runs)
    return columns


def mlp_with_side(z: Tensor, mlp: Mlp, side: Side, activation: str) -> Tensor | None:
    """`mlp(z)` and the bottleneck of z, added up; else as `linear_with_side`."""
    weights = [mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias]
    if mlp.fc1_branches or mlp.fc2_branches or not _is_open(*weights):
        return None
    z, *weights = as_autocast(z, *weights)
    h: Tensor = _MlpWithSide.apply(z, *side, weights, activation)
    return h


def _is_open(*tensors: Tensor) -> bool:
    """Whether all is frozen and nothing looks on; a compiler fuses by itself."""
    return is_plain() and not any(tensor.requires_grad for tensor in tensors)


class _LinearWithSide(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
        up_weight: Tensor,
        up_bias: Tensor,
        scale: float,
        layer: Sequence[Tensor],
        activation: str,
        runs: tuple[slice, ...],
    ) -> Tensor:
        side = _cast(Side(down_weight, down_bias, up_weight, up_bias, scale), x.dtype)
        x_RC = x.reshape(-1, x.shape[-1])
        weight, bias = layer
        both = bias.clone()
        for run, part in zip(runs, _parts(side.up_bias, runs), strict=True):
            both[run].add_(part, alpha=scale)
        y = linear(x, weight, both)  # no view: branches behind may change it
        y_RO = y.view(-1, len(weight))
        hidden_RD, saved_RD = _run_down(side, x_RC, activation)
        for run, part in zip(runs, _parts(side.up_weight, runs), strict=True):
            y_RO[:, run].addmm_(hidden_RD, part.t(), alpha=scale)
        _save(ctx, side, x_RC, hidden_RD, saved_RD)
        ctx.given_dtype = down_weight.dtype
        ctx.layer, ctx.activation, ctx.runs, ctx.shape = weight, activation, runs, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_RO = grad.reshape(-1, grad.shape[-1])
        pre_RD, grads = _side_backward(ctx, [grad_RO[:, run] for run in ctx.runs])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_RC = linear(grad_RO, ctx.layer.t(), None)
            grad_x = grad_RC.addmm_(pre_RD, ctx.saved_tensors[1]).view(ctx.shape)
        return grad_x, *grads, None, None, None, None


class _MlpWithSide(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
        up_weight: Tensor,
        up_bias: Tensor,
        scale: float,
        mlp: Sequence[Tensor],
        activation: str,
    ) -> Tensor:
        side = _cast(Side(down_weight, down_bias, up_weight, up_bias, scale), z.dtype)
        z_RC = z.reshape(-1, z.shape[-1])
        weight_1, bias_1, weight_2, bias_2 = mlp
        wide = linear(z, weight_1, bias_1)
        both = torch.add(bias_2, side.up_bias, alpha=scale)
        h = linear(nn.functional.gelu(wide), weight_2, both)  # no view, as above
        hidden_RD, saved_RD = _run_down(side, z_RC, activation)
        h.view(z_RC.shape).addmm_(hidden_RD, side.up_weight.t(), alpha=scale)
        _save(ctx, side, z_RC, hidden_RD, saved_RD, wide)
        ctx.given_dtype = down_weight.dtype
        ctx.weights, ctx.activation, ctx.shape = (weight_1, weight_2), activation, z.shape
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_RC = grad.reshape(-1, grad.shape[-1])
        pre_RD, grads = _side_backward(ctx, [grad_RC])
        grad_z = None
        if ctx.needs_input_grad[0]:
            weight_1, weight_2 = ctx.weights
            wide = linear(grad, weight_2.t(), None)
            aten.gelu_backward.grad_input(wide, ctx.saved_tensors[-1], grad_input=wide)
            grad_z = linear(wide, weight_1.t(), None)
            grad_z.view(grad_RC.shape).addmm_(pre_RD, ctx.saved_tensors[1])
        return grad_z, *grads, None, None, None


def _cast(side: Side, dtype: torch.dtype) -> Side:
    return Side(*(tensor.to(dtype) for tensor in side[:4]), side.scale)


def _parts(tensor: Tensor, runs: tuple[slice, ...]) -> tuple[Tensor, ...]:
    """Rows of an up-projection for each run of columns."""
    widths = [run.stop - run.start for run in runs]
    parts: tuple[Tensor, ...] = tensor.split_with_sizes(widths)
    return parts


def _run_down(side: Side, x_RC: Tensor, activation: str) -> tuple[Tensor, Tensor | None]:
    """Give the hidden rows, and what else their activation's backward pass needs."""
    pre_RD = linear(x_RC, side.down_weight, side.down_bias)
    act = ACTIVATIONS[activation]
    return act.run(pre_RD), None if act.keeps_output else pre_RD


def _save(
    ctx: Any, side: Side, x_RC: Tensor, hidden_RD: Tensor, pre_RD: Tensor | None, *more: Tensor
) -> None:
    ctx.scale = side.scale
    ctx.save_for_backward(x_RC, side.down_weight, side.up_weight, hidden_RD, pre_RD, *more)


def _side_backward(
    ctx: Any, parts_RO: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Give the gradient of what the activation got, and those of the tensors of `Side`."""
    x_RC, _, up_weight, hidden_RD, pre_RD = ctx.saved_tensors[:5]
    widths = [part.shape[1] for part in parts_RO]
    weights = up_weight.split_with_sizes(widths)
    grad_RD = linear(parts_RO[0], weights[0].t(), None)
    for part, weight in zip(parts_RO[1:], weights[1:], strict=True):
        grad_RD.addmm_(part, weight)
    grad_up = _join([part.t() @ hidden_RD for part in parts_RO])
    grad_up_bias = _join([part.sum(0) for part in parts_RO])
    saved = hidden_RD if pre_RD is None else pre_RD
    grad_pre_RD = ACTIVATIONS[ctx.activation].backward(grad_RD.mul_(ctx.scale), saved)
    grads = (
        grad_pre_RD.t() @ x_RC,
        grad_pre_RD.sum(0),
        grad_up.mul_(ctx.scale),
        grad_up_bias.mul_(ctx.scale),
    )
    down, down_bias, up, up_bias = (grad.to(ctx.given_dtype) for grad in grads)
    return grad_pre_RD, (down, down_bias, up, up_bias)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
