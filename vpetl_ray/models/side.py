"""A bottleneck beside a frozen linear layer: both as one step of autograd.

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
    """A bottleneck, for one call: `scale * (act(x down.T + bias) up.T + bias)`."""

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
    activation: str
    """A key of `ACTIVATIONS`."""
    runs: tuple[slice, ...]
    """Slices of the layer's columns, in order, that the O columns are added to."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is trained."""
        return self[:4]

    def to(self, dtype: torch.dtype) -> "Side":
        """Give it in the type of a product."""
        if self.down_weight.dtype == dtype:
            return self
        down, down_bias, up, up_bias = (tensor.to(dtype) for tensor in self.tensors)
        return self._replace(down_weight=down, down_bias=down_bias, up_weight=up, up_bias=up_bias)

    def add_bias(self, bias_O: Tensor) -> Tensor:
        """What a layer with `bias_O` adds to each row, and the bottleneck with it."""
        both = bias_O.clone()
        for run, part in self._by_run(self.up_bias):
            both[run].add_(part, alpha=self.scale)
        return both

    def enter(self, x_RC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the hidden rows (R, D), and what else their activation's backward pass needs."""
        pre_RD = linear(x_RC, self.down_weight, self.down_bias)
        act = ACTIVATIONS[self.activation]
        return act.run(pre_RD), None if act.keeps_output else pre_RD

    def leave(self, hidden_RD: Tensor, y_RO: Tensor) -> None:
        """Add the up-projection, whose bias is there already, to `y_RO` in place."""
        for run, part in self._by_run(self.up_weight):
            y_RO[:, run].addmm_(hidden_RD, part.t(), alpha=self.scale)

    def _by_run(self, tensor: Tensor) -> list[tuple[slice, Tensor]]:
        if len(self.runs) == 1:
            return [(self.runs[0], tensor)]
        widths = [run.stop - run.start for run in self.runs]
        return list(zip(self.runs, tensor.split_with_sizes(widths), strict=True))


class KeptSide(NamedTuple):
    """What a bottleneck's backward pass needs; tensors travel by `save_for_backward`."""

    scale: float
    activation: str
    runs: tuple[slice, ...]
    dtype: torch.dtype
    """Of what is trained."""

    def backward(
        self, grad_RO: Tensor, saved: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Give the gradient of what the activation got, (R, D), and those of `Side.tensors`.

        Args:
            grad_RO: of all the layer's columns.
            saved: as `tensors_to_save` gave them.

        """
        x_RC, _, up_weight, hidden_RD, pre_RD = saved
        if len(self.runs) == 1:
            grad_RU = grad_RO[:, self.runs[0]]
            grad_RD = linear(grad_RU, up_weight.t(), None)
            grad_up, grad_up_bias = grad_RU.t() @ hidden_RD, grad_RU.sum(0)
        else:
            parts = [grad_RO[:, run] for run in self.runs]
            weights = up_weight.split_with_sizes([part.shape[1] for part in parts])
            grad_RD = linear(parts[0], weights[0].t(), None)
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                grad_RD.addmm_(part, weight)
            grad_up = torch.cat([part.t() @ hidden_RD for part in parts])
            grad_up_bias = torch.cat([part.sum(0) for part in parts])
        kept = hidden_RD if pre_RD is None else pre_RD
        pre_grad_RD = ACTIVATIONS[self.activation].backward(grad_RD.mul_(self.scale), kept)
        grads = (
            pre_grad_RD.t() @ x_RC,
            pre_grad_RD.sum(0),
            grad_up.mul_(self.scale),
            grad_up_bias.mul_(self.scale),
        )
        if grad_up.dtype != self.dtype:
            return pre_grad_RD, tuple(grad.to(self.dtype) for grad in grads)
        return pre_grad_RD, grads


def keep_side(side: Side) -> KeptSide:
    """What of a bottleneck is no tensor; of the side before `Side.to`."""
    return KeptSide(side.scale, side.activation, side.runs, side.down_weight.dtype)


def tensors_to_save(
    side: Side, x_RC: Tensor, hidden_RD: Tensor, pre_RD: Tensor | None
) -> tuple[Tensor | None, ...]:
    """For `save_for_backward`: five, in the order in which `KeptSide.backward` takes them."""
    return x_RC, side.down_weight, side.up_weight, hidden_RD, pre_RD


def down_weight_of(saved: Sequence[Tensor]) -> Tensor:
    """Give (D, C) of what `tensors_to_save` gave: leads from the hidden rows back to the input."""
    return saved[1]


def side_of(branches: nn.ModuleList) -> Side | None:
    """Give the first branch of a seam as a bottleneck; None where it is none, or another kind."""
    beside = getattr(branches[0], "beside", None) if len(branches) else None
    side: Side | None = None if beside is None else beside()
    return side


def is_frozen(*tensors: Tensor | None) -> bool:
    """Whether all is frozen and nothing looks on; a compiler fuses by itself."""
    return is_plain() and not any(t is not None and t.requires_grad for t in tensors)


def linear_with_side(x: Tensor, weight: Tensor, bias: Tensor | None, side: Side) -> Tensor | None:
    """Give `x weight.T + bias`, with the bottleneck of x added to some of its columns.

    Args:
        x: (..., C).
        weight: (columns, C), frozen.
        bias: (columns), frozen.
        side: the bottleneck.

    Returns:
        (..., columns), or None where this way is not open: the caller takes the plain one.

    """
    if bias is None or not is_frozen(weight, bias):
        return None
    x, weight, bias = as_autocast(x, weight, bias)
    columns: Tensor = _LinearWithSide.apply(x, *side.tensors, side, weight, bias)
    return columns


class _LinearWithSide(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
        up_weight: Tensor,
        up_bias: Tensor,
        given: Side,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        side = given.to(x.dtype)
        x_RC = x.reshape(-1, x.shape[-1])
        y = linear(x, weight, side.add_bias(bias))  # no view: branches behind may change it
        hidden_RD, pre_RD = side.enter(x_RC)
        side.leave(hidden_RD, y.view(-1, len(weight)))
        ctx.save_for_backward(*tensors_to_save(side, x_RC, hidden_RD, pre_RD))
        ctx.side, ctx.weight, ctx.shape = keep_side(given), weight, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_RO = grad.reshape(-1, grad.shape[-1])
        pre_RD, grads = ctx.side.backward(grad_RO, ctx.saved_tensors)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_RC = linear(grad_RO, ctx.weight.t(), None)
            grad_x = grad_RC.addmm_(pre_RD, down_weight_of(ctx.saved_tensors)).view(ctx.shape)
        return grad_x, *grads, None, None, None
