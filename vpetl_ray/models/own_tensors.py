"""The tensors that a backbone has of its own, as plain numbers: for counting and choosing them.

No torch, nothing is built. Names are those of the network's parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("norm1", "qkv", "rel_pos", "proj", "norm2", "fc1", "fc2", "downsample")
"""The positions of the paper's Table 1 (`rel_pos` is its "Attn, SoftMax"), in order of depth."""
EDGE = "edge"
"""Everything else: what turns pixels into tokens, and the last norm."""


@dataclass(frozen=True, kw_only=True)
class OwnTensor:
    """One parameter of a backbone."""

    name: str
    """In the network."""
    stage: int
    """Stage that it belongs to, from 1; what stands before the first counts as the first."""
    kind: str
    """One of `KINDS`, or `EDGE`."""
    size: int
    """Numbers in it."""
    block: int | None = None
    """Block that it is in, from 1 over the whole network; None outside of blocks."""
    is_bias: bool = False
    """Whether it is added to what a layer or norm gives (position tables are not)."""


@dataclass(frozen=True, kw_only=True)
class OwnLayer:
    """Where tensors stand that belong together."""

    name: str
    stage: int
    kind: str
    block: int | None = None

    def tensor(self, name: str, size: int, *, is_bias: bool = False) -> OwnTensor:
        """Give one tensor; without a name it is the layer itself."""
        path = f"{self.name}.{name}" if name else self.name
        return OwnTensor(
            name=path,
            stage=self.stage,
            kind=self.kind,
            size=size,
            block=self.block,
            is_bias=is_bias,
        )

    def norm(self, dim: int) -> Iterator[OwnTensor]:
        """Weight and bias of a norm."""
        yield self.tensor("weight", dim)
        yield self.tensor("bias", dim, is_bias=True)

    def linear(self, dim: int, out_dim: int) -> Iterator[OwnTensor]:
        """Weight and bias of a linear layer, or of a convolution over patches of `dim` numbers."""
        yield self.tensor("weight", dim * out_dim)
        yield self.tensor("bias", out_dim, is_bias=True)
