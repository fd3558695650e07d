"""How a feature map is cut into (shifted) attention windows, and which tokens may see each other.

Axes: B batch, T H W token grid, C channels, W windows, N tokens of one window.
Geometry as in the Video Swin code: a window larger than the grid is clipped to it and not shifted;
a grid that the window does not divide is padded behind; the shift is a cyclic roll.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from vpetl_ray.models.arch_base import Size
from vpetl_ray.models.linear import is_plain

BLOCKED = -100.0
"""Added to the score of two tokens that only the cyclic shift brought together."""


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """The windows of one grid size."""

    grid: Size
    """Tokens of the feature map (T, H, W)."""
    window: Size
    """Tokens of one window, clipped to the grid."""
    shift: Size
    """Cyclic shift, 0 along an axis that has one window only."""

    padding: Size = field(init=False)
    """Tokens added behind each axis."""
    counts: Size = field(init=False)
    """Windows along each axis."""
    num_windows: int = field(init=False)
    """Windows of one clip."""
    num_tokens: int = field(init=False)
    """Tokens of one window."""
    is_shifted: bool = field(init=False)
    """Whether any axis is shifted (then some tokens of a window must not see each other)."""
    is_padded: bool = field(init=False)
    """Whether any axis is padded."""

    def __post_init__(self) -> None:
        pairs = list(zip(self.grid, self.window, strict=True))
        counts = tuple(-(-size // win) for size, win in pairs)
        facts = {
            "padding": tuple(-size % win for size, win in pairs),
            "counts": counts,
            "num_windows": prod(counts),
            "num_tokens": prod(self.window),
            "is_shifted": any(self.shift),
            "is_padded": any(size % win for size, win in pairs),
        }
        for name, value in facts.items():  # once: they are asked for at every step
            object.__setattr__(self, name, value)

    def partition(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B*W, N, C); padded tokens are zeros."""
        if self.is_padded:
            t, h, w = self.padding
            x_BTHWC = pad(x_BTHWC, (0, 0, 0, w, 0, h, 0, t))
        if self._is_reordered(x_BTHWC):
            order, _ = _orders(self, x_BTHWC.device)
            rows_BPC = x_BTHWC.flatten(1, 3).index_select(1, order)
            return rows_BPC.view(-1, self.num_tokens, x_BTHWC.shape[-1])  # (B*W, N, C)
        if self.is_shifted:
            x_BTHWC = _roll(x_BTHWC, tuple(-s for s in self.shift))
        dim = x_BTHWC.shape[-1]
        if self.num_windows > 1:
            (nt, nh, nw), (t, h, w) = self.counts, self.window
            x_BTHWC = x_BTHWC.view(-1, nt, t, nh, h, nw, w, dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return x_BTHWC.reshape(-1, self.num_tokens, dim)  # (B*W, N, C)

    def merge(self, y_WNC: Tensor) -> Tensor:
        """(B*W, N, C) back to (B, T, H, W, C), without the padded tokens."""
        dim = y_WNC.shape[-1]
        if self._is_reordered(y_WNC):
            _, back = _orders(self, y_WNC.device)
            rows_BPC = y_WNC.reshape(-1, self.num_windows * self.num_tokens, dim)
            return rows_BPC.index_select(1, back).view(-1, *self.grid, dim)
        (nt, nh, nw), (t, h, w) = self.counts, self.window
        if self.num_windows == 1:
            y_BTHWC = y_WNC.reshape(-1, t, h, w, dim)
        else:
            y = y_WNC.view(-1, nt, nh, nw, t, h, w, dim).permute(0, 1, 4, 2, 5, 3, 6, 7)
            y_BTHWC = y.reshape(-1, nt * t, nh * h, nw * w, dim)
        if self.is_shifted:
            y_BTHWC = _roll(y_BTHWC, self.shift)
        if self.is_padded:
            y_BTHWC = y_BTHWC[:, : self.grid[0], : self.grid[1], : self.grid[2]]
        return y_BTHWC

    def rows(self, x_BTHWC: Tensor) -> Tensor:
        """Give what a layer has to multiply of (B, T, H, W, C), (R, C): no padding twice.

        Without padding the windows' tokens, in their order. Else those of the grid, and at the end
        a row of zeros that stands for all padding.
        """
        if not self.is_padded:
            return self.partition(x_BTHWC).view(-1, x_BTHWC.shape[-1])
        x_RC = x_BTHWC.reshape(-1, x_BTHWC.shape[-1])
        rows = x_RC.new_empty(len(x_RC) + 1, x_RC.shape[1])
        rows[:-1] = x_RC
        rows[-1] = 0
        return rows

    def spread(self, rows: Tensor) -> Tensor:
        """(R, C), in the order of `rows`, to (B*W, N, C), without autograd."""
        if not self.is_padded:
            return rows.view(-1, self.num_tokens, rows.shape[-1])
        places, _ = _row_orders(self, (len(rows) - 1) // prod(self.grid), rows.device)
        return rows.index_select(0, places).view(-1, self.num_tokens, rows.shape[-1])

    def gather(self, y_WNC: Tensor) -> Tensor:
        """Sum what `spread` made of each row: (B*W, N, C) to (R, C), without autograd."""
        if not self.is_padded:
            return y_WNC.flatten(0, 1)
        dim = y_WNC.shape[-1]
        num_clips = len(y_WNC) // self.num_windows
        _, back = _orders(self, y_WNC.device)
        _, padded = _row_orders(self, num_clips, y_WNC.device)
        slots = y_WNC.view(num_clips, -1, dim)
        rows = y_WNC.new_empty(num_clips * len(back) + 1, dim)
        torch.index_select(slots, 1, back, out=rows[:-1].view(num_clips, -1, dim))
        torch.sum(slots.view(-1, dim).index_select(0, padded), 0, out=rows[-1])
        return rows

    def grid_of(self, rows: Tensor) -> Tensor:
        """(R, C), in the order of `rows`, to (B, T, H, W, C)."""
        if not self.is_padded:
            return self.merge(self.spread(rows))
        return rows[:-1].view(-1, *self.grid, rows.shape[-1])

    def _is_reordered(self, x: Tensor) -> bool:
        """Whether rows are to be fetched one by one: once over memory instead of up to three times.

        The backward pass of it would add rows up, which is slower by far.
        """
        if not is_plain() or (torch.is_grad_enabled() and x.requires_grad):
            return False
        return self.num_windows > 1 or self.is_shifted


@lru_cache(maxsize=64)
def _orders(plan: WindowPlan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where on the padded grid a row of windows comes from, and where in these one of the grid."""
    (nt, nh, nw), (t, h, w) = plan.counts, plan.window
    token_THW = np.arange(prod((*plan.counts, *plan.window))).reshape(nt * t, nh * h, nw * w)
    rolled = np.roll(token_THW, tuple(-move for move in plan.shift), (0, 1, 2))
    order = rolled.reshape(nt, t, nh, h, nw, w).transpose(0, 2, 4, 1, 3, 5).ravel()
    from_windows = np.argsort(order).reshape(token_THW.shape)
    back = from_windows[: plan.grid[0], : plan.grid[1], : plan.grid[2]].ravel()
    with torch.inference_mode(mode=False):  # training may come after evaluation
        return torch.from_numpy(order).to(device), torch.from_numpy(back).to(device)


@lru_cache(maxsize=64)
def _row_orders(plan: WindowPlan, num_clips: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of `WindowPlan.rows` each slot of all clips' windows has, and which are padding."""
    order, back = _orders(plan, torch.device("cpu"))
    num_tokens = len(back)
    token_of_slot = np.full(len(order), -1)
    token_of_slot[back.numpy()] = np.arange(num_tokens)
    clips = np.arange(num_clips)[:, None]
    is_padding = np.tile(token_of_slot < 0, num_clips)
    places = (token_of_slot + num_tokens * clips).ravel()
    places[is_padding] = num_clips * num_tokens
    with torch.inference_mode(mode=False):
        padded = torch.from_numpy(np.flatnonzero(is_padding))
        return torch.from_numpy(places).to(device), padded.to(device)


def _roll(x_BTHWC: Tensor, shift: tuple[int, ...]) -> Tensor:
    axes = [axis for axis in range(3) if shift[axis]]
    return torch.roll(x_BTHWC, [shift[axis] for axis in axes], [axis + 1 for axis in axes])


@lru_cache(maxsize=256)
def window_plan(grid: Size, window: Size, shift: Size) -> WindowPlan:
    """Plan the windows of a `grid` for a block with this full `window` and `shift`."""
    clipped = [
        (min(size, win), 0 if size <= win else move)
        for size, win, move in zip(grid, window, shift, strict=True)
    ]
    (t, st), (h, sh), (w, sw) = clipped
    return WindowPlan(grid=grid, window=(t, h, w), shift=(st, sh, sw))


def shift_mask(plan: WindowPlan) -> Tensor:
    """(W, N, N) float32 on CPU: 0 where two tokens were neighbours before the roll, else BLOCKED.

    An axis of L tokens falls into three regions: [0, L-window), [L-window, L-shift), [L-shift, L).
    """
    axes = []
    for count, window, shift in zip(plan.counts, plan.window, plan.shift, strict=True):
        position = torch.arange(count * window)
        length = count * window
        region = (position >= length - window).long() + (position >= length - shift).long()
        axes.append(region if shift else torch.zeros_like(region))
    t, h, w = axes
    region_THW = t[:, None, None] * 9 + h[None, :, None] * 3 + w[None, None, :]
    (nt, nh, nw), (wt, wh, ww) = plan.counts, plan.window
    cut = region_THW.view(nt, wt, nh, wh, nw, ww).permute(0, 2, 4, 1, 3, 5)
    region_WN = cut.reshape(plan.num_windows, plan.num_tokens)
    is_apart = region_WN[:, None, :] != region_WN[:, :, None]
    return is_apart.to(torch.float32) * BLOCKED


@lru_cache(maxsize=64)
def relative_position_index(window: Size, num_tokens: int) -> NDArray[np.int64]:
    """(N, N): the row of the full window's table for each pair of tokens.

    A clipped window takes the first `num_tokens` rows and columns of the full window's index, as
    the original code does and the published weights were trained with. Where the clip is along
    height or width these are not the geometric offsets; torchvision keeps the same convention.

    An array, not a tensor: torch.export runs this with fake tensors, and they must not be cached.
    """
    axes = np.meshgrid(*(np.arange(size) for size in window), indexing="ij")
    token_3N = np.stack(axes).reshape(3, -1)[:, :num_tokens]
    offset_3NN = token_3N[:, :, None] - token_3N[:, None, :]
    t, h, w = (offset_3NN[axis] + window[axis] - 1 for axis in range(3))
    index: NDArray[np.int64] = (t * (2 * window[1] - 1) + h) * (2 * window[2] - 1) + w
    return index
