"""The transformer block of every family: norm1, attention, +, norm2, MLP, +, with named seams.

Axes: B batch (for windows: batch times windows), N tokens that attend to each other, C channels,
M heads, D channels of one head, P tokens that are attended to and do not attend. A seam is an
`nn.ModuleList`, empty by default, whose members are called as `branch(input, output) -> output`;
the backbone knows no method by name.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from vpetl_ray.models.half_block import add_kept, run_mlp_half
from vpetl_ray.models.linear import compute_type, is_plain, run_linear
from vpetl_ray.models.side import linear_with_side, side_of
from vpetl_ray.models.small_attention import small_attention


def run_branches(branches: nn.ModuleList, x: Tensor, y: Tensor) -> Tensor:
    """Hand (input, output) through every branch of a seam."""
    for branch in branches:
        y = branch(x, y)
    return y


def run_layer(layer: nn.Linear, branches: nn.ModuleList, x: Tensor) -> Tensor:
    """Give `layer(x)` through every branch of the seam beside it.

    The first may have a method `beside()`, which gives it as a `Side` of the layer, or None where
    it has to be called like the others.
    """
    side = side_of(branches) if is_plain() else None
    y = None if side is None else linear_with_side(x, layer.weight, bias_of(layer), side)
    if y is None:
        return run_branches(branches, x, run_linear(layer, x))
    for branch in branches[1:]:
        y = branch(x, y)
    return y


def bias_of(layer: nn.Linear) -> Tensor | None:
    """Give what a linear layer adds to each row; some layers put it together of several tensors."""
    whole = getattr(layer, "whole_bias", None)
    bias: Tensor | None = layer.bias if whole is None else whole()
    return bias


def drawn_samples(x: Tensor, rate: float, is_training: bool) -> Tensor | None:
    """Draw a factor for each sample, (B, 1, ...), zero for those dropped; None where none is."""
    if rate == 0.0 or not is_training:
        return None
    keep = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1), dtype=compute_type(x))
    return keep.bernoulli_(1.0 - rate).div_(1.0 - rate)


class Mlp(nn.Module):
    """`fc2(GELU(fc1(z)))`.

    Seams: `fc1_branches` and `fc2_branches` get what enters and leaves each layer.
    """

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)
        self.fc1_branches = nn.ModuleList()
        self.fc2_branches = nn.ModuleList()

    def forward(self, z: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        hidden = gelu(run_branches(self.fc1_branches, z, run_linear(self.fc1, z)))
        return run_branches(self.fc2_branches, hidden, run_linear(self.fc2, hidden))


class Attention(nn.Module):
    """Multi-head attention of all tokens to all.

    Seams: `token_branches` get the tokens (B, N, C) twice and give what takes their place;
    `qkv_branches` get (z, qkv) of shapes (B, N, C) and (B, N, 3C); `proj_branches` get what enters
    and leaves the output projection, both (B, N, C). `kv_branches` are called with z alone and
    give keys and values of further tokens, (B or 1, P, 2C), which every token attends to.

    Args:
        dim: channels.
        num_heads: heads, each dim / num_heads wide.
        qkv: the projection to (..., 3C), by default a linear layer with bias.

    """

    def __init__(self, dim: int, num_heads: int, qkv: nn.Linear | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim) if qkv is None else qkv
        self.proj = nn.Linear(dim, dim)
        self.token_branches = nn.ModuleList()
        self.qkv_branches = nn.ModuleList()
        self.kv_branches = nn.ModuleList()
        self.proj_branches = nn.ModuleList()

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        z_BNC = self.to_tokens(x_BNC)
        return self.to_output(self.attend(self.to_qkv(z_BNC), more_kv=self.to_more_kv(z_BNC)))

    def run_half(self, norm: nn.Module, x: Tensor, keep: Tensor | None) -> Tensor | None:
        """`x + keep * self(norm(x))` in one step, where there is one; here there is none."""
        return None

    def prepared(self, x: Tensor) -> AbstractContextManager[None]:
        """Make ready, for what enters, all that compiled code should find and not make."""
        return nullcontext()

    def to_tokens(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) to what attends in their place, (B, N, C), through the seam."""
        return run_branches(self.token_branches, x_BNC, x_BNC)

    def to_more_kv(self, z_BNC: Tensor) -> Tensor | None:
        """Keys and values (B, P, 2C) of further tokens; None where no branch gives any."""
        if not self.kv_branches:
            return None
        given = [branch(z_BNC) for branch in self.kv_branches]
        return torch.cat([more.expand(z_BNC.shape[0], -1, -1) for more in given], 1)

    def to_qkv(self, z_BNC: Tensor) -> Tensor:
        """(B, N, C) to (B, N, 3C), through the seam."""
        return run_layer(self.qkv, self.qkv_branches, z_BNC)

    def to_output(self, out_BNC: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C), through the seam."""
        return run_branches(self.proj_branches, out_BNC, run_linear(self.proj, out_BNC))

    def attend(
        self,
        qkv_BN3C: Tensor,
        mask: Tensor | None = None,
        num_windows: int = 1,
        more_kv: Tensor | None = None,
    ) -> Tensor:
        """(B, N, 3C) to (B, N, C).

        Args:
            qkv_BN3C: queries, keys and values side by side.
            mask: (1, M or W*M, N, N), added to the scores.
            num_windows: W, how many neighbours in B the mask tells apart.
            more_kv: (B, P, 2C), keys and values of further tokens, which no mask is for.

        """
        _, n, three_c = qkv_BN3C.shape
        dim = three_c // 3
        if more_kv is None:
            out_BNC = small_attention(qkv_BN3C, None if mask is None else mask[0], self.num_heads)
            if out_BNC is not None:
                return out_BNC
        if num_windows == 1:
            q, k, v = qkv_BN3C.view(-1, n, 3, self.num_heads, dim // self.num_heads).unbind(2)
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, M, N, D)
        else:
            # Windows stand beside the heads, so that one mask serves every clip of the batch.
            qkv = qkv_BN3C.view(-1, num_windows, n, 3, self.num_heads, dim // self.num_heads)
            q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)  # (B/W, W*M, N, D)
        if more_kv is not None:
            k, v, mask = self._with_more(k, v, mask, more_kv, num_windows)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if num_windows == 1:
            return out.transpose(1, 2).reshape(-1, n, dim)  # (B, N, C)
        out = out.view(-1, num_windows, self.num_heads, n, dim // self.num_heads)
        return out.transpose(2, 3).reshape(-1, n, dim)  # (B, N, C)

    def _with_more(
        self, k: Tensor, v: Tensor, mask: Tensor | None, more_kv: Tensor, num_windows: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put further tokens in front of keys and values: (B/W, W*M, P + N, D)."""
        p, dim = more_kv.shape[1], k.shape[-1]
        more = more_kv.to(k.dtype).reshape(-1, num_windows, p, 2, self.num_heads, dim)
        more_k, more_v = more.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)
        mask = None if mask is None else pad(mask, (p, 0))
        return torch.cat((more_k, k), 2), torch.cat((more_v, v), 2), mask


class Block(nn.Module):
    """`x += attn(norm1(x)); x += mlp(norm2(x))`.

    Seam: `mlp_branches` get (z, h): the output of norm2 and of the MLP, both (..., C), inside the
    residual branch and before drop-path.

    Args:
        attn: the attention, which also fixes the shape of what goes through.
        dim: channels.
        mlp_dim: channels between the two layers of the MLP.
        norm_eps: of both norms.

    """

    def __init__(self, attn: Attention, dim: int, mlp_dim: int, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, mlp_dim)
        self.mlp_branches = nn.ModuleList()
        self.drop_path_rate = 0.0
        self.is_compiled = False
        self.is_recomputed = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., C) to (B, ..., C): tokens in a row, or on a grid for windows.

        Where gradients are wanted, the block may run compiled, and be run anew in the backward
        pass instead of keeping what that needs.
        """
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.run(x)
        run = _run_compiled if self.is_compiled else Block.run
        if not self.is_recomputed:
            return run(self, x)
        y: Tensor = checkpoint(run, self, x, use_reentrant=False)
        return y

    def start(self, x: Tensor) -> Tensor:
        """All but the seam beside the MLP: what `finish` needs, (B, 2, ..., C)."""
        x = x + self.attn(self.norm1(x))
        return torch.stack((x, self.mlp(self.norm2(x))), 1)

    def finish(self, pair: Tensor) -> Tensor:
        """Go on from `start`; with a drop-path rate of 0 it is `forward`, to rounding."""
        x, h = pair[:, 0], pair[:, 1].contiguous()  # branches may add to h in place
        return x + run_branches(self.mlp_branches, self.norm2(x), h)

    def run(self, x: Tensor) -> Tensor:
        """As `forward`, in eager steps: a half at a time where all of it is frozen."""
        keep = drawn_samples(x, self.drop_path_rate, self.training)
        y = self.attn.run_half(self.norm1, x, keep) if is_plain() else None
        if y is None:
            y = add_kept(x, self.attn(self.norm1(x)), keep)
        keep = drawn_samples(y, self.drop_path_rate, self.training)
        whole = run_mlp_half(self, y, keep) if is_plain() else None
        if whole is None:
            z = self.norm2(y)
            whole = add_kept(y, run_branches(self.mlp_branches, z, self.mlp(z)), keep)
        return whole


MAX_COMPILED: Final = 256
"""Kinds of blocks that one process keeps compiled; torch's own limit is 8, then it gives up."""


def _run_compiled(block: Block, x: Tensor) -> Tensor:
    with block.attn.prepared(x):
        return _compiled_run()(block, x)


@lru_cache(maxsize=1)
def _compiled_run() -> Callable[[Block, Tensor], Tensor]:
    """One for all blocks: those of equal structure and size share their code, over all trials."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MAX_COMPILED)
    return torch.compile(Block.run, dynamic=False)
