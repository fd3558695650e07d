"""One transformer block: norm1, attention, +, norm2, MLP, +, with named seams for methods.

Axes: B batch, T H W token grid, C channels, W windows, N tokens of one window, M heads, D channels
of one head. A seam is an `nn.ModuleList`, empty by default, whose members are called as
`branch(input, output) -> output`; the backbone knows no method by name.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from vpetl_ray.models.windows import (
    Size,
    WindowPlan,
    relative_position_index,
    shift_mask,
    window_plan,
)

_CACHED_MASKS = 4
"""Grid sizes whose mask a block keeps (training and evaluation rarely use more than two)."""


def run_branches(branches: nn.ModuleList, x: Tensor, y: Tensor) -> Tensor:
    """Hand (input, output) through every branch of a seam."""
    for branch in branches:
        y = branch(x, y)
    return y


def drop_path(x: Tensor, rate: float, is_training: bool) -> Tensor:
    """Stochastic depth (Huang et al. 2016): zero a residual for whole samples."""
    if rate == 0.0 or not is_training:
        return x
    keep = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1.0 - rate)
    return x * keep.div_(1.0 - rate)


class Mlp(nn.Module):
    """`fc2(GELU(fc1(z)))`."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, z: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        out: Tensor = self.fc2(gelu(self.fc1(z)))
        return out


class WindowAttention(nn.Module):
    """Multi-head attention inside (shifted) 3D windows, with a learned bias per relative position.

    Seams: `qkv_branches` get (z, qkv) of shapes (B*W, N, C) and (B*W, N, 3C); `proj_branches` get
    what enters and leaves the output projection, both (B*W, N, C).
    """

    def __init__(self, dim: int, num_heads: int, window: Size, shift: Size) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.shift = shift
        rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.qkv_branches = nn.ModuleList()
        self.proj_branches = nn.ModuleList()
        # Not buffers: DDP would broadcast them and every state dict would carry them.
        self._masks: dict[tuple[object, ...], Tensor] = {}

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H, W, C)."""
        _, t, h, w, _ = x_BTHWC.shape
        plan = window_plan((t, h, w), self.window, self.shift)
        z_WNC = plan.partition(x_BTHWC)
        qkv_WN3C = run_branches(self.qkv_branches, z_WNC, self.qkv(z_WNC))
        out_WNC = self._attend(qkv_WN3C, plan)
        y_WNC = run_branches(self.proj_branches, out_WNC, self.proj(out_WNC))
        return plan.merge(y_WNC)

    def _attend(self, qkv_WN3C: Tensor, plan: WindowPlan) -> Tensor:
        """(B*W, N, 3C) to (B*W, N, C)."""
        num_windows = plan.num_windows if plan.is_shifted else 1
        _, n, three_c = qkv_WN3C.shape
        mask = self._mask(plan, qkv_WN3C.dtype, qkv_WN3C.device)
        dim = three_c // 3
        if num_windows == 1:
            q, k, v = qkv_WN3C.view(-1, n, 3, self.num_heads, dim // self.num_heads).unbind(2)
            out = scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
            )
            return out.transpose(1, 2).reshape(-1, n, dim)  # (B*W, N, C)
        # Windows stand beside the heads, so that one mask serves every clip of the batch.
        qkv = qkv_WN3C.view(-1, num_windows, n, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)  # (B, W*M, N, D)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out.view(-1, num_windows, self.num_heads, n, dim // self.num_heads)
        return out.transpose(2, 3).reshape(-1, n, dim)  # (B*W, N, C)

    def _mask(self, plan: WindowPlan, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(1, M or W*M, N, N), added to the scores. Cached while the position table is frozen."""
        table = self.relative_position_bias_table
        is_learning = table.requires_grad and torch.is_grad_enabled()
        if is_learning or torch.compiler.is_compiling():
            return self._build_mask(plan, dtype, device)
        # The version and address tell when somebody loaded other weights into the table.
        key = (plan, dtype, device, table._version, table.data_ptr())
        mask = self._masks.get(key)
        if mask is None:
            while len(self._masks) >= _CACHED_MASKS:
                self._masks.pop(next(iter(self._masks)))
            # A tensor made in inference mode could not be used by a training step later.
            with torch.inference_mode(mode=False), torch.no_grad():
                mask = self._masks[key] = self._build_mask(plan, dtype, device)
        return mask

    def _build_mask(self, plan: WindowPlan, dtype: torch.dtype, device: torch.device) -> Tensor:
        n = plan.num_tokens
        index_NN = torch.from_numpy(relative_position_index(self.window, n)).to(device)
        bias_NNM = self.relative_position_bias_table[index_NN.flatten()].view(n, n, -1)
        mask_MNN = bias_NNM.permute(2, 0, 1)
        if plan.is_shifted:
            blocked_WNN = shift_mask(plan).to(device)
            mask_MNN = (mask_MNN[None] + blocked_WNN[:, None]).flatten(0, 1)
        return mask_MNN.to(dtype).contiguous()[None]


class SwinBlock(nn.Module):
    """`x += attn(norm1(x)); x += mlp(norm2(x))`, Video Swin equation (2).

    Seam: `mlp_branches` get (z, h): the output of norm2 and of the MLP, both (B, T, H, W, C),
    inside the residual branch and before drop-path.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, window: Size, shift: Size) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim)
        self.mlp_branches = nn.ModuleList()
        self.drop_path_rate = 0.0

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H, W, C)."""
        y_BTHWC = self.attn(self.norm1(x_BTHWC))
        x_BTHWC = x_BTHWC + drop_path(y_BTHWC, self.drop_path_rate, self.training)
        z_BTHWC = self.norm2(x_BTHWC)
        h_BTHWC = run_branches(self.mlp_branches, z_BTHWC, self.mlp(z_BTHWC))
        return x_BTHWC + drop_path(h_BTHWC, self.drop_path_rate, self.training)
