"""Frozen linear layers: in float32 on a CPU by oneDNN, under autocast with weights cast once.

Torch hands float32 products to MKL. On the CPUs where this was measured (AMD, AVX-512, 1 and 2
threads) oneDNN, which comes with torch, takes 5 to 20% less for the products of a forward pass and
15 to 25% less for the gradient of an input, where the weight stands the other way round. Packed
weights gained nothing more. In bfloat16 torch asks oneDNN itself, but has it add the bias to rows
that were filled with it: left to oneDNN, a layer takes 5 to 15% less.

Autocast keeps what it cast for weights that are trained alone: a frozen one is cast anew at every
use, and each copy is held for the backward pass. Here the copy is made once for all steps and
trials. Everything else stays with torch.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

ONEDNN_LINEAR: Final = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""What torch's own compiler puts in place of a linear layer; None in a torch without oneDNN."""

_MULTIPLIES_BF16: Final = ONEDNN_LINEAR is not None and bool(
    torch.ops.mkldnn._is_mkldnn_bf16_supported()
)
"""Whether it takes bfloat16 on this CPU; torch's own products do on any."""

_MIN_PRODUCTS: Final = 1 << 22
"""Multiplications from which on it is oneDNN: its calls take longer to begin than those of MKL."""


def is_plain() -> bool:
    """Whether nothing looks at what is run: no compiler, no tracer."""
    return not (torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None)


def compute_type(x: Tensor) -> torch.dtype:
    """Tell the type in which a matrix product of `x` runs: autocast's, or its own."""
    kind = x.device.type
    is_cast = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if is_cast else x.dtype


def as_autocast(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Give `x` and frozen tensors as a matrix product gets them: under autocast in its type."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, *tensors
    dtype = compute_type(x)
    return x.to(dtype), *(cast_frozen(tensor, dtype) for tensor in tensors)


_CASTS = WeakTensorKeyDictionary()
"""Frozen tensors to (what tells their content, the copy in another type)."""


def cast_frozen(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Give a frozen tensor in another type, from memory where it was asked for before."""
    if tensor.dtype == dtype:
        return tensor
    if tensor.requires_grad or tensor.is_inference():
        # It may change without a trace: fused optimisers leave the version as it was.
        _CASTS.pop(tensor, None)  # type: ignore[no-untyped-call]
        return tensor.to(dtype)
    content = tensor._version, tensor.data_ptr(), dtype
    known = _CASTS.get(tensor)  # type: ignore[no-untyped-call]
    if known is not None and known[0] == content:
        kept: Tensor = known[1]
        return kept
    # A tensor made in inference mode could not be used by a training step later.
    with torch.inference_mode(mode=False), torch.no_grad():
        made = tensor.detach().to(dtype)
    _CASTS[tensor] = content, made
    return made


def is_float_on_cpu(x: Tensor) -> bool:
    """Whether a tensor is of the kind that this module and `small_attention` are for."""
    return x.is_cpu and x.dtype == torch.float32


def linear(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> Tensor:
    """(..., C) to (..., O), without autograd; the result is a tensor of its own, no view."""
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    num_columns = weight_OC.shape[0]
    if _is_for_onednn(rows, weight_OC, bias_O):
        assert ONEDNN_LINEAR is not None
        made: Tensor = ONEDNN_LINEAR(rows, weight_OC, bias_O, "none", [], "")
        # Resized, since autograd forbids to change a view that a function returned.
        return made if x.dim() == 2 else made.resize_(*x.shape[:-1], num_columns)
    y = x.new_empty((*x.shape[:-1], num_columns))
    into = y if x.dim() == 2 else y.view(-1, num_columns)
    if bias_O is None:
        torch.mm(rows, weight_OC.t(), out=into)
    else:
        torch.addmm(bias_O, rows, weight_OC.t(), out=into)
    return y


def _is_for_onednn(rows_RC: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> bool:
    if ONEDNN_LINEAR is None or not rows_RC.is_cpu:
        return False
    if rows_RC.dtype == weight_OC.dtype == torch.bfloat16:
        # `addmm` gives the same product to it, but first copies the bias to every row.
        return _MULTIPLIES_BF16 and bias_O is not None and bias_O.dtype == torch.bfloat16
    if weight_OC.numel() * rows_RC.shape[0] < _MIN_PRODUCTS:
        return False
    return is_float_on_cpu(rows_RC) and is_float_on_cpu(weight_OC)


def run_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Give `layer(x)`; a frozen linear layer takes the faster way where there is one."""
    if type(layer) is not nn.Linear or not is_plain() or _is_trained(layer):
        y: Tensor = layer(x)
        return y
    tensors = list(layer.parameters())  # weight, and bias where it has one
    if torch.is_autocast_enabled(x.device.type):
        return nn.functional.linear(*as_autocast(x, *tensors))
    if not is_float_on_cpu(x) or not is_float_on_cpu(layer.weight):
        y = layer(x)
    elif torch.is_grad_enabled() and x.requires_grad:
        y = _FrozenLinear.apply(x, layer.weight, layer.bias)
    else:
        y = linear(x, layer.weight, layer.bias)
    return y


def _is_trained(layer: nn.Linear) -> bool:
    return torch.is_grad_enabled() and any(p.requires_grad for p in layer.parameters())


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return linear(grad, ctx.weight.t(), None), None, None
