"""How much there is to compute in one clip, by arithmetic: no torch, nothing is built.

A FLOP here is what the field counts: a multiplication and an addition are two, of matrix products
and convolutions alone. Norms, activations and softmax are left out, as torch's own counter does.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BlockWork:
    """How many rows the layers of one block see for one clip."""

    tokens: int
    """Rows through the norms and the MLP."""
    windows: int
    """Windows that attend each for itself; 1 where all tokens see all."""
    window_tokens: int
    """Tokens of one of them, padding included."""

    @property
    def attended(self) -> int:
        """Rows through the projections of the attention."""
        return self.windows * self.window_tokens


def linear_flops(rows: int, dim: int, out_dim: int) -> int:
    """Of one matrix product."""
    return 2 * rows * dim * out_dim


def attention_flops(work: BlockWork, dim: int, *, num_keys: int) -> int:
    """Of the scores of every token with `num_keys` keys, and of the mean of as many values."""
    return 2 * linear_flops(work.attended, dim, num_keys)
