"""The bottleneck that adapter and PATT share: `s * (act(x W_down + b) W_up + b)`.

Axes: R rows (every leading axis flattened), C channels, D the bottleneck's width, O output columns.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.side import Side
from vpetl_ray.models.work import linear_flops
from vpetl_ray.petl.checks import check_number

Scale = float | Literal["learned"]
LEARNED: Literal["learned"] = "learned"

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "tanh": torch.tanh,
}


def check_scale(key: str, scale: object) -> None:
    """Check that a scale is a number above zero, or the word `learned`."""
    if isinstance(scale, str) and scale != LEARNED:
        raise VpetlError(f"{key}: must be a number above 0, or {LEARNED!r}, got {scale!r}")
    if not isinstance(scale, str):
        check_number(key, scale, above=0)


def bottleneck_flops(rows: int, dim: int, d_bottle: int, out_dim: int) -> int:
    """Count both matrix products of a bottleneck."""
    return linear_flops(rows, dim, d_bottle) + linear_flops(rows, d_bottle, out_dim)


def count_bottleneck(dim: int, d_bottle: int, out_dim: int, scale: Scale) -> int:
    """Parameters of one `Bottleneck`."""
    down = dim * d_bottle + d_bottle
    up = d_bottle * out_dim + out_dim
    return down + up + (1 if scale == LEARNED else 0)


def make_scale(scale: Scale, learned_start: float) -> float | nn.Parameter:
    """Give a scale as modules hold it: the number, or a parameter that starts at one."""
    if scale == LEARNED:
        return nn.Parameter(torch.tensor(learned_start))
    return float(scale)


class Bottleneck(nn.Module):
    """Down-projection, activation, up-projection that starts at zero, scale.

    Args:
        dim: channels of the input.
        d_bottle: width between the two projections.
        out_dim: columns of the result.
        activation: a key of `ACTIVATIONS`.
        scale: the factor s, or `learned` for one trained number that starts at `learned_start`.
        learned_start: see `scale`.
        generator: draws the down-projection; the global generator is left alone.

    """

    def __init__(
        self,
        *,
        dim: int,
        d_bottle: int,
        out_dim: int,
        activation: str,
        scale: Scale,
        learned_start: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        # On "meta" first: the constructor would draw from the global generator.
        self.down = nn.Linear(dim, d_bottle, device="meta").to_empty(device="cpu")
        self.up = nn.Linear(d_bottle, out_dim, device="meta").to_empty(device="cpu")
        self.activation_name = activation
        self.activation = ACTIVATIONS[activation]
        self.scale = make_scale(scale, learned_start)
        bound = dim**-0.5  # He's uniform with a = sqrt(5), as AdaptFormer draws it
        with torch.no_grad():
            self.down.weight.uniform_(-bound, bound, generator=generator)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def hidden(self, x: Tensor) -> Tensor:
        """(..., C) to the activated bottleneck (..., D)."""
        return self.activation(self.down(x))

    def as_side(self, runs: tuple[slice, ...]) -> Side | None:
        """As `models.side` runs it, which has no gradient for a trained scale: None then."""
        if isinstance(self.scale, Tensor):
            return None
        down, up = self.down, self.up
        return Side(
            down.weight, down.bias, up.weight, up.bias, self.scale, self.activation_name, runs
        )

    def up_projection(self) -> tuple[Tensor, Tensor]:
        """Weight (O, D) and bias (O) with the scale folded in: cheaper than scaling the rows."""
        return self.up.weight * self.scale, self.up.bias * self.scale


def add_up_projection(
    output: Tensor,
    hidden: Tensor,
    weight_OD: Tensor,
    bias_O: Tensor | None,
    runs: tuple[slice, ...],
) -> Tensor:
    """Add `hidden @ weight.T + bias` to columns of `output`, in place, in one matrix product.

    Args:
        output: (..., columns), contiguous; it is changed and returned. Whatever made it must not
            need it for its own backward pass (a linear layer does not).
        hidden: (..., D).
        weight_OD: O is the total width of `runs`.
        bias_O: likewise; None adds none.
        runs: slices of output's columns, in order, that the O columns are added to.

    """
    result: Tensor = _AddUpProjection.apply(output, hidden, weight_OD, bias_O, runs)
    return result


class _AddUpProjection(torch.autograd.Function):
    """`output[:, runs] += [hidden, 1] @ [weight, bias].T`, by GEMMs that accumulate in place.

    Written as an addition, autograd would make the product, pass over it once more to add it, and
    copy the whole gradient on the way back. Here the gradient of `output` goes through untouched.
    """

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        hidden: Tensor,
        weight_OD: Tensor,
        bias_O: Tensor | None,
        runs: tuple[slice, ...],
    ) -> Tensor:
        rows_RO = output.view(-1, output.shape[-1])
        hidden_RD = hidden.reshape(-1, hidden.shape[-1]).to(output.dtype)
        given_dtype, weight_OD = weight_OD.dtype, weight_OD.to(output.dtype)
        start = 0
        for run in runs:
            columns = rows_RO[:, run]
            stop = start + columns.shape[1]
            if bias_O is not None:
                columns += bias_O[start:stop]
            columns.addmm_(hidden_RD, weight_OD[start:stop].t())
            start = stop
        ctx.mark_dirty(output)
        ctx.dtypes = hidden.dtype, given_dtype
        ctx.save_for_backward(hidden_RD, weight_OD)
        ctx.runs, ctx.hidden_shape, ctx.has_bias = runs, hidden.shape, bias_O is not None
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_RD, weight_OD = ctx.saved_tensors
        grad_RO = grad.reshape(-1, grad.shape[-1])
        parts = [grad_RO[:, run] for run in ctx.runs]
        widths = [part.shape[1] for part in parts]
        weights = weight_OD.split(widths)
        grad_hidden = parts[0] @ weights[0]
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            grad_hidden.addmm_(part, weight)
        grad_weight = _join([part.t() @ hidden_RD for part in parts])
        grad_bias = _join([part.sum(0) for part in parts]) if ctx.has_bias else None
        hidden_dtype, weight_dtype = ctx.dtypes
        return (
            grad,
            grad_hidden.view(ctx.hidden_shape).to(hidden_dtype),
            grad_weight.to(weight_dtype),
            None if grad_bias is None else grad_bias.to(weight_dtype),
            None,
        )


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
