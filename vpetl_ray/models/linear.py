"""Frozen linear layers in float32 on a CPU, by oneDNN.

Torch hands such products to MKL. On the CPUs where this was measured (AMD, AVX-512, 1 and 2
threads) oneDNN, which comes with torch, takes 5 to 20% less for the products of a forward pass and
15 to 25% less for the gradient of an input, where the weight stands the other way round. Packed
weights gained nothing more. Everything else, and every other device and type, stays with torch.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ONEDNN_LINEAR: Final = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""What torch's own compiler puts in place of a linear layer; None in a torch without oneDNN."""


def is_plain(x: Tensor) -> bool:
    """Whether nothing looks at what is run: no compiler, no tracer, no autocast."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch.is_autocast_enabled(x.device.type)
    )


def is_float_on_cpu(x: Tensor) -> bool:
    """Whether a tensor is of the kind that this module and `small_attention` are for."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def linear(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> Tensor:
    """(..., C) to (..., O), without autograd; the result is a tensor of its own, no view."""
    rows = x.reshape(-1, x.shape[-1])
    if ONEDNN_LINEAR is not None and is_float_on_cpu(x) and is_float_on_cpu(weight_OC):
        # Resized, since autograd forbids to change a view that a function returned.
        made: Tensor = ONEDNN_LINEAR(rows, weight_OC, bias_O, "none", [], "")
        return made.resize_(*x.shape[:-1], len(weight_OC))
    y = x.new_empty((*x.shape[:-1], len(weight_OC)))
    into = y.view(-1, len(weight_OC))
    if bias_O is None:
        torch.mm(rows, weight_OC.t(), out=into)
    else:
        torch.addmm(bias_O, rows, weight_OC.t(), out=into)
    return y


def run_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Give `layer(x)`; a frozen linear layer takes the faster way where there is one."""
    y: Tensor
    if type(layer) is not nn.Linear or not _is_open(layer, x):
        y = layer(x)
    elif torch.is_grad_enabled() and x.requires_grad:
        y = _FrozenLinear.apply(x, layer.weight, layer.bias)
    else:
        y = linear(x, layer.weight, layer.bias)
    return y


def _is_open(layer: nn.Linear, x: Tensor) -> bool:
    tensors = [tensor for tensor in (layer.weight, layer.bias) if tensor is not None]
    if not is_float_on_cpu(x) or not all(is_float_on_cpu(tensor) for tensor in tensors):
        return False
    is_trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return is_plain(x) and not is_trained


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return linear(grad, ctx.weight.t(), None), None, None
