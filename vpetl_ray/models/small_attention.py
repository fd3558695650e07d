"""Attention of few tokens on a CPU: scores, softmax, sum, a handful of windows at once.

Torch's fused attention is made for long rows. With the 64 to 400 tokens of a window it was slower
than plain batched products: forward and backward of a block of the demo's first stage 9.6 against
4.0 ms with two threads (7.5 against 7.0 with one), of Swin-T's 24 against 16 (31 against 29). What
matters is that the scores of a handful of windows stay in the cache between the three steps. In
bfloat16 torch's backward pass took most of a whole step of the demo's backbone.

Axes: R windows of all clips, N tokens of one window, C channels, M heads, D channels of one head,
G (window, head) pairs that the mask tells apart.
"""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vpetl_ray.models.linear import is_plain

MOST_TOKENS: Final = 400
"""Longer rows are left to torch: scores are kept for the backward pass, N x N of each head."""

TYPES: Final = (torch.float32, torch.bfloat16)

CACHED_BYTES: Final = 4 << 20
"""Scores that are worked on at once. (1 MB took 10% longer, all at once 30%, in Swin-T.)"""

aten = torch.ops.aten


def is_small(qkv_or_x: Tensor, num_tokens: int, dtype: torch.dtype) -> bool:
    """Whether this way is open for rows of so many tokens, on the device of a tensor."""
    return qkv_or_x.is_cpu and dtype in TYPES and num_tokens <= MOST_TOKENS and is_plain()


def small_attention(qkv_RN3C: Tensor, mask_GNN: Tensor | None, num_heads: int) -> Tensor | None:
    """Attend inside each window. In bfloat16 scores are rounded to it, their sums are not.

    Args:
        qkv_RN3C: queries, keys and values side by side, contiguous.
        mask_GNN: added to the scores of pair g modulo G, where g counts windows, then heads.
            (Without one, as in a ViT, torch's way is the faster one in float32: 66 against 80 ms
            a step.)
        num_heads: M.

    Returns:
        (R, N, C); None where this way is not open: other devices and types, long rows, a mask
        that is trained.

    """
    if not is_small(qkv_RN3C, qkv_RN3C.shape[1], qkv_RN3C.dtype) or not qkv_RN3C.is_contiguous():
        return None
    if mask_GNN is None and qkv_RN3C.dtype != torch.float32:
        mask_GNN = qkv_RN3C.new_zeros(1, qkv_RN3C.shape[1], qkv_RN3C.shape[1])
    if mask_GNN is None or mask_GNN.requires_grad or mask_GNN.dtype != qkv_RN3C.dtype:
        return None
    if torch.is_grad_enabled() and qkv_RN3C.requires_grad:
        out: Tensor = _SmallAttention.apply(qkv_RN3C, mask_GNN, num_heads)
        return out
    return attend(qkv_RN3C, mask_GNN, num_heads, keeps=False)[0]


class _SmallAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_RN3C: Tensor, mask_GNN: Tensor, num_heads: int) -> Tensor:
        out, kept = attend(qkv_RN3C, mask_GNN, num_heads, keeps=True)
        ctx.save_for_backward(*kept, mask_GNN)
        ctx.num_heads = num_heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RNC: Tensor) -> tuple[Tensor, None, None]:
        apart, shares, mask_GNN = ctx.saved_tensors
        return attend_backward(grad_RNC, apart, shares, mask_GNN, ctx.num_heads), None, None


def attend(
    qkv_RN3C: Tensor, mask_GNN: Tensor, num_heads: int, *, keeps: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Give (R, N, C), and what `attend_backward` needs of it if asked for; no autograd."""
    apart = _apart(qkv_RN3C, num_heads)
    _, pairs, n, _ = apart.shape
    shares = apart.new_empty(pairs, n, n) if keeps else None
    out = _attend(apart, mask_GNN, shares, num_heads)
    return out, () if shares is None else (apart, shares)


def attend_backward(
    grad_RNC: Tensor,
    apart: Tensor,
    shares: Tensor,
    mask_GNN: Tensor,
    num_heads: int,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> Tensor:
    """From the gradient of (R, N, C) to that of qkv, (R, N, 3C).

    Of queries, keys and values those are computed that are `wanted`; the columns of the others
    hold anything.
    """
    wants_q, wants_k, wants_v = wanted
    _, pairs, n, dim = apart.shape
    step = _pairs_at_once(n, mask_GNN)
    grad_out = grad_RNC.view(-1, n, num_heads, dim).transpose(1, 2).reshape(pairs, n, dim)
    grad = torch.empty_like(apart)
    kept = apart.new_empty(min(step, pairs), n, n)
    for q, k, v, share, grad_o, grad_q, grad_k, grad_v in _in_parts(
        step, *apart.unbind(), shares, grad_out, *grad.unbind()
    ):
        if wants_v:
            torch.bmm(share.transpose(1, 2), grad_o, out=grad_v)
        if not (wants_q or wants_k):
            continue
        scores = kept[: len(q)]
        torch.bmm(grad_o, v.transpose(1, 2), out=scores)
        aten._softmax_backward_data.out(scores, share, -1, share.dtype, grad_input=scores)
        if wants_q:
            torch.bmm(scores, k, out=grad_q)
        if wants_k:
            torch.bmm(scores.transpose(1, 2), q, out=grad_k)  # q is scaled already
    if wants_q:
        grad[0].mul_(dim**-0.5)
    back = grad.view(3, -1, num_heads, n, dim).permute(1, 3, 0, 2, 4)
    return back.reshape(-1, n, 3 * num_heads * dim)


def _in_parts(step: int, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Cut tensors of equal length into runs of `step`, side by side."""
    if len(tensors[0]) <= step:
        return [tensors]
    return zip(*(torch.split(tensor, step) for tensor in tensors), strict=True)


def _apart(qkv_RN3C: Tensor, num_heads: int) -> Tensor:
    """(3, R*M, N, D), scaled queries first: each head's rows together, for batched products."""
    r, n, three_c = qkv_RN3C.shape
    dim = three_c // 3 // num_heads
    apart = qkv_RN3C.detach().view(r, n, 3, num_heads, dim).permute(2, 0, 3, 1, 4)
    apart = apart.clone(memory_format=torch.contiguous_format).view(3, r * num_heads, n, dim)
    apart[0].mul_(dim**-0.5)
    return apart


def _attend(apart: Tensor, mask_GNN: Tensor, shares: Tensor | None, num_heads: int) -> Tensor:
    """(3, R*M, N, D) to (R, N, C); softmax's result is left in `shares`, (R*M, N, N)."""
    _, pairs, n, dim = apart.shape
    step = _pairs_at_once(n, mask_GNN)
    kept = apart.new_empty(min(step, pairs), n, n) if shares is None else shares
    out = apart.new_empty(pairs, n, dim)
    for number, (q, k, v, out_part) in enumerate(_in_parts(step, *apart.unbind(), out)):
        start = 0 if shares is None else number * step
        scores = kept[start : start + len(q)]
        _repeat(mask_GNN, number * step, scores)
        scores.baddbmm_(q, k.transpose(1, 2))
        torch.softmax(scores, -1, out=scores)
        torch.bmm(scores, v, out=out_part)
    heads_apart = out.view(-1, num_heads, n, dim)
    return heads_apart.transpose(1, 2).reshape(-1, n, num_heads * dim)


def _repeat(mask_GNN: Tensor, start: int, scores: Tensor) -> None:
    """Fill scores with the mask of the pairs from `start` on."""
    num_masks, n, _ = mask_GNN.shape
    if len(scores) % num_masks == 0:
        scores.view(-1, num_masks, n, n).copy_(mask_GNN)
    else:
        first = start % num_masks
        scores.copy_(mask_GNN[first : first + len(scores)])


def _pairs_at_once(num_tokens: int, mask_GNN: Tensor) -> int:
    """Pairs whose scores fit the cache: whole rounds of the mask, or a divisor of one."""
    num_masks = len(mask_GNN)
    most = max(1, CACHED_BYTES // (mask_GNN.element_size() * num_tokens**2))
    if most >= num_masks:
        return most // num_masks * num_masks
    return next(step for step in range(most, 0, -1) if num_masks % step == 0)
