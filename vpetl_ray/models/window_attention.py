"""Attention inside (shifted) 3D windows, Video Swin section 3.2.

Axes: B batch, T H W token grid, C channels, W windows, N tokens of one window, M heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vpetl_ray.models.arch_base import Size
from vpetl_ray.models.blocks import Attention
from vpetl_ray.models.derived import DerivedTensors
from vpetl_ray.models.half_block import (
    AttentionHalf,
    FrozenAttention,
    cast_layers,
    frozen_norm,
    only_side,
)
from vpetl_ray.models.linear import compute_type
from vpetl_ray.models.side import is_frozen
from vpetl_ray.models.small_attention import is_small
from vpetl_ray.models.windows import (
    WindowPlan,
    relative_position_index,
    shift_mask,
    window_plan,
)


class WindowAttention(Attention):
    """Multi-head attention inside windows, with a learned bias per relative position.

    The seams are those of `Attention`; what they see are windows, (B*W, N, C).
    """

    def __init__(self, dim: int, num_heads: int, window: Size, shift: Size) -> None:
        super().__init__(dim, num_heads)
        self.window = window
        self.shift = shift
        rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        self._masks = DerivedTensors()
        self._ready_plan: WindowPlan | None = None
        self._ready_mask: Tensor | None = None

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H, W, C)."""
        plan = self._plan(x_BTHWC)
        z_WNC = self.to_tokens(plan.partition(x_BTHWC))
        qkv_WN3C = self.to_qkv(z_WNC)
        mask = self._mask(plan, qkv_WN3C.dtype, qkv_WN3C.device)
        num_told_apart = plan.num_windows if plan.is_shifted else 1
        out_WNC = self.attend(qkv_WN3C, mask, num_told_apart, self.to_more_kv(z_WNC))
        return plan.merge(self.to_output(out_WNC))

    def run_half(self, norm: nn.Module, x: Tensor, keep: Tensor | None) -> Tensor | None:
        """`x + keep * self(norm(x))`, (B, T, H, W, C); None where the plain way has to be taken."""
        frozen_by = frozen_norm(norm, x)
        side, is_alone = only_side(self.qkv_branches)
        if frozen_by is None or not is_alone or not is_frozen(self.relative_position_bias_table):
            return None
        if self.token_branches or self.kv_branches or self.proj_branches:
            return None
        plan, dtype = self._plan(x), compute_type(x)
        if not is_small(x, plan.num_tokens, dtype):
            return None
        weights = cast_layers(x, self.qkv, self.proj)
        if weights is None:
            return None
        frozen = FrozenAttention(
            norm=frozen_by,
            plan=plan,
            mask=self._mask(plan, dtype, x.device)[0],
            num_heads=self.num_heads,
            weights=weights,
            side=side,
            keep=keep,
            keeps=torch.is_grad_enabled() and (x.requires_grad or side is not None),
        )
        y: Tensor = AttentionHalf.apply(x, frozen, *(() if side is None else side.tensors))
        return y

    @contextmanager
    def prepared(self, x: Tensor) -> Iterator[None]:
        """Have the plan ready, and the mask: a constant while the position table is frozen."""
        plan = self._plan(x)
        mask = None
        if not self.relative_position_bias_table.requires_grad:
            mask = self._mask(plan, compute_type(x), x.device)
        self._ready_plan, self._ready_mask = plan, mask
        try:
            yield
        finally:
            self._ready_plan = self._ready_mask = None

    def _plan(self, x_BTHWC: Tensor) -> WindowPlan:
        if self._ready_plan is not None:
            return self._ready_plan
        _, t, h, w, _ = x_BTHWC.shape
        return window_plan((t, h, w), self.window, self.shift)

    def _mask(self, plan: WindowPlan, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(1, M or W*M, N, N), added to the scores. Cached while the position table is frozen."""
        if self._ready_mask is not None:
            return self._ready_mask
        return self._masks.get(
            self.relative_position_bias_table,
            (plan, dtype, device),
            lambda: self._build_mask(plan, dtype, device),
        )

    def _build_mask(self, plan: WindowPlan, dtype: torch.dtype, device: torch.device) -> Tensor:
        n = plan.num_tokens
        index_NN = torch.from_numpy(relative_position_index(self.window, n)).to(device)
        bias_NNM = self.relative_position_bias_table[index_NN.flatten()].view(n, n, -1)
        mask_MNN = bias_NNM.permute(2, 0, 1)
        if plan.is_shifted:
            blocked_WNN = shift_mask(plan).to(device)
            mask_MNN = (mask_MNN[None] + blocked_WNN[:, None]).flatten(0, 1)
        return mask_MNN.to(dtype).contiguous()[None]
