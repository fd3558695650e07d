"""Half a block whose own weights are frozen, as one step of autograd: norm, branch, residual.

Run module by module, a half leaves a dozen nodes behind for the backward pass, and each of them
passes over memory for a sum or a shape. Here both passes are written out; what is trained in the
half is at most one bottleneck beside it (`side`), and everything else takes the plain way, which
gives the same to rounding. (`benchmarks/step` is where the difference is seen.)

Axes: B batch, T H W token grid, C channels, R rows (every leading axis flattened), W windows, N
tokens of one window, D the bottleneck's width, H columns between the MLP's layers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vpetl_ray.models.linear import cast_frozen, compute_type, linear
from vpetl_ray.models.side import (
    Side,
    down_weight_of,
    is_frozen,
    keep_side,
    side_of,
    tensors_to_save,
)
from vpetl_ray.models.small_attention import attend, attend_backward
from vpetl_ray.models.windows import WindowPlan

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class FrozenNorm:
    """A layer norm, in float32 or wider whatever the products run in, as autocast has it."""

    weight: Tensor
    bias: Tensor
    eps: float

    def run(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., C) to the same, and mean and reciprocal deviation of every row."""
        normed: tuple[Tensor, Tensor, Tensor] = torch.native_layer_norm(
            _as_float32(x), self.weight.shape, self.weight, self.bias, self.eps
        )
        return normed

    def backward(self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """Give the gradient of x from that of what `run` gave."""
        grads = aten.native_layer_norm_backward(
            _as_float32(grad),
            _as_float32(x),
            self.weight.shape,
            mean,
            rstd,
            self.weight,
            self.bias,
            [True, False, False],
        )
        grad_x: Tensor = grads[0]
        return grad_x


def _as_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def frozen_norm(norm: nn.Module, x: Tensor) -> FrozenNorm | None:
    """Give a block's norm if it is frozen and of the type that `FrozenNorm` runs in."""
    if type(norm) is not nn.LayerNorm or norm.bias is None or not is_frozen(norm.weight, norm.bias):
        return None
    if norm.weight.dtype != (torch.float32 if x.element_size() < 4 else x.dtype):
        return None
    return FrozenNorm(weight=norm.weight, bias=norm.bias, eps=norm.eps)


def only_side(branches: nn.ModuleList) -> tuple[Side | None, bool]:
    """Give a seam's bottleneck, and whether there is nothing else in it."""
    side = side_of(branches)
    return side, len(branches) == (0 if side is None else 1)


@dataclass(frozen=True, kw_only=True)
class FrozenMlp:
    """What `MlpHalf` needs beside what is trained."""

    norm: FrozenNorm
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    """Weight and bias of the two layers, in the type of the products."""
    side: Side | None
    keep: Tensor | None
    """(B, 1, ...), factor on what the branch gives: stochastic depth."""


class MlpHalf(torch.autograd.Function):
    """`x + keep * (fc2(GELU(fc1(z))) + side(z))` with `z = norm(x)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: FrozenMlp, *trained: Tensor) -> Tensor:
        """(..., C) to the same; `trained` are the tensors of `frozen.side`, for autograd to see."""
        weight_1, bias_1, weight_2, bias_2 = frozen.weights
        z, mean, rstd = frozen.norm.run(x)
        z_RC = z.view(-1, x.shape[-1]).to(weight_1.dtype)
        hidden_RH = linear(z_RC, weight_1, bias_1)
        saved: tuple[Tensor | None, ...] = ()
        if frozen.side is None:
            h = linear(_gelu_like(hidden_RH, x), weight_2, bias_2)
        else:
            side = frozen.side.to(z_RC.dtype)
            h = linear(_gelu_like(hidden_RH, x), weight_2, side.add_bias(bias_2))
            hidden_RD, pre_RD = side.enter(z_RC)
            side.leave(hidden_RD, h.view(z_RC.shape))
            saved = tensors_to_save(side, z_RC, hidden_RD, pre_RD)
        ctx.frozen = frozen
        ctx.save_for_backward(x, mean, rstd, hidden_RH, *saved)
        if frozen.keep is None and h.dtype == x.dtype:
            return h.add_(x)
        return add_kept(x, h, frozen.keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, of `frozen` (none) and of what is trained."""
        frozen: FrozenMlp = ctx.frozen
        x, mean, rstd, hidden_RH, *saved = ctx.saved_tensors
        weight_1, _, weight_2, _ = frozen.weights
        grad_h = grad if frozen.keep is None else grad * frozen.keep
        grad_RC = grad_h.reshape(-1, grad.shape[-1]).to(weight_1.dtype)
        pre_RD, grads = _backward_side(frozen.side, grad_RC, saved)
        if not ctx.needs_input_grad[0]:
            return None, None, *grads
        grad_RH = linear(grad_RC, weight_2.t(), None)
        aten.gelu_backward.grad_input(grad_RH, hidden_RH, grad_input=grad_RH)
        grad_z_RC = linear(grad_RH, weight_1.t(), None)
        if pre_RD is not None:
            grad_z_RC.addmm_(pre_RD, down_weight_of(saved))
        grad_x = frozen.norm.backward(grad_z_RC.view(x.shape), x, mean, rstd)
        return _sum(grad_x, grad), None, *grads


@dataclass(frozen=True, kw_only=True)
class FrozenAttention:
    """What `AttentionHalf` needs beside what is trained."""

    norm: FrozenNorm
    plan: WindowPlan
    mask: Tensor
    """(G, N, N), as `small_attention` takes it."""
    num_heads: int
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    """Weight and bias of the QKV and the output projection, in the type of the products."""
    side: Side | None
    keep: Tensor | None
    """(B, 1, ...), factor on what the branch gives: stochastic depth."""
    keeps: bool
    """Whether there will be a backward pass. (Inside of a function autograd does not tell.)"""

    def read_by_side(self) -> tuple[bool, bool, bool]:
        """Whether the bottleneck is added to queries, keys and values."""
        dim, runs = len(self.weights[2]), () if self.side is None else self.side.runs
        q, k, v = (
            any(run.start < (part + 1) * dim and run.stop > part * dim for run in runs)
            for part in range(3)
        )
        return q, k, v


class AttentionHalf(torch.autograd.Function):
    """`x + keep * proj(attention(qkv(z) + side(z)))` with `z = norm(x)` in windows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: FrozenAttention, *trained: Tensor) -> Tensor:
        """(B, T, H, W, C) to the same; `trained` as in `MlpHalf`."""
        qkv_weight, qkv_bias, proj_weight, proj_bias = frozen.weights
        plan = frozen.plan
        z, mean, rstd = frozen.norm.run(x)
        z = z.to(qkv_weight.dtype)
        z_RC = plan.rows(z)
        saved: tuple[Tensor | None, ...] = ()
        if frozen.side is None:
            qkv_RO = linear(z_RC, qkv_weight, qkv_bias)
        else:
            side = frozen.side.to(z_RC.dtype)
            qkv_RO = linear(z_RC, qkv_weight, side.add_bias(qkv_bias))
            hidden_RD, pre_RD = side.enter(z_RC)
            side.leave(hidden_RD, qkv_RO)
            saved = tensors_to_save(side, z_RC, hidden_RD, pre_RD)
        qkv_WN3C = plan.spread(qkv_RO)
        out_WNC, kept = attend(qkv_WN3C, frozen.mask, frozen.num_heads, keeps=frozen.keeps)
        y = linear(plan.merge(out_WNC), proj_weight, proj_bias)
        ctx.frozen = frozen
        ctx.save_for_backward(x, mean, rstd, *kept, *saved)
        return add_kept(x, y, frozen.keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, of `frozen` (none) and of what is trained."""
        frozen: FrozenAttention = ctx.frozen
        x, mean, rstd, apart, shares, *saved = ctx.saved_tensors
        qkv_weight, _, proj_weight, _ = frozen.weights
        grad_y = grad if frozen.keep is None else grad * frozen.keep
        plan, grad_y = frozen.plan, grad_y.to(proj_weight.dtype)
        grad_out = plan.partition(linear(grad_y, proj_weight.t(), None))
        wanted = (True, True, True) if ctx.needs_input_grad[0] else frozen.read_by_side()
        grad_qkv = attend_backward(grad_out, apart, shares, frozen.mask, frozen.num_heads, wanted)
        grad_RO = plan.gather(grad_qkv)
        pre_RD, grads = _backward_side(frozen.side, grad_RO, saved)
        if not ctx.needs_input_grad[0]:
            return None, None, *grads
        grad_z_RC = linear(grad_RO, qkv_weight.t(), None)
        if pre_RD is not None:
            grad_z_RC.addmm_(pre_RD, down_weight_of(saved))
        grad_x = frozen.norm.backward(plan.grid_of(grad_z_RC), x, mean, rstd)
        return _sum(grad_x, grad), None, *grads


def _backward_side(
    side: Side | None, grad_RO: Tensor, saved: list[Tensor]
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    if side is None:
        return None, ()
    return keep_side(side).backward(grad_RO, tuple(saved))


def _gelu_like(hidden_RH: Tensor, x: Tensor) -> Tensor:
    """(R, H) to (..., H), so that the layer behind gives a tensor of x's shape and no view."""
    return nn.functional.gelu(hidden_RH).view(*x.shape[:-1], hidden_RH.shape[-1])


def add_kept(x: Tensor, y: Tensor, keep: Tensor | None) -> Tensor:
    """Add what a branch gives to the residual, times the factor of stochastic depth."""
    return x + (y if keep is None else y * keep)


def _sum(grad_x: Tensor, grad: Tensor) -> Tensor:
    """Of the branch and the residual, in the type of what came."""
    return grad_x.add_(grad) if grad_x.dtype == grad.dtype else grad_x.to(grad.dtype).add_(grad)


def run_mlp_half(block: Any, x: Tensor, keep: Tensor | None) -> Tensor | None:
    """`MlpHalf` of a block; None where something in it has to take the plain way."""
    mlp, norm = block.mlp, frozen_norm(block.norm2, x)
    side, is_alone = only_side(block.mlp_branches)
    if norm is None or not is_alone or mlp.fc1_branches or mlp.fc2_branches:
        return None
    weights = cast_layers(x, mlp.fc1, mlp.fc2)
    if weights is None:
        return None
    frozen = FrozenMlp(norm=norm, weights=weights, side=side, keep=keep)
    y: Tensor = MlpHalf.apply(x, frozen, *(() if side is None else side.tensors))
    return y


def cast_layers(
    x: Tensor, first: nn.Module, second: nn.Module
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Weights and biases of two linear layers in the type of products with x, if all are frozen."""
    tensors = [getattr(layer, name) for layer in (first, second) for name in ("weight", "bias")]
    dtype = compute_type(x)
    is_known = type(first) is nn.Linear and type(second) is nn.Linear
    if not is_known or any(tensor is None for tensor in tensors) or not is_frozen(*tensors):
        return None
    if dtype != x.dtype or torch.is_autocast_enabled(x.device.type):
        tensors = [cast_frozen(tensor, dtype) for tensor in tensors]
    if any(tensor.dtype != dtype for tensor in tensors):
        return None
    one, two, three, four = tensors
    return one, two, three, four
