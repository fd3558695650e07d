"""What training asks of the clips it is given."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


class ClipSource(Protocol):
    """Labelled clips by index. Augmentation is the source's own, drawn by (seed, epoch, index)."""

    @property
    def labels(self) -> Tensor:
        """Class of each clip, int64 (N,)."""

    @property
    def train_views(self) -> int | None:
        """How many views of a clip training goes through, one an epoch and then again from the
        first, so that features may be kept; None where every epoch draws a new one.
        """

    def __len__(self) -> int:
        """Count the clips."""

    def batch(self, indices: Sequence[int] | Tensor, *, epoch: int, train: bool) -> Tensor:
        """Read clips.

        Args:
            indices: of the clips, in 0..N-1.
            epoch: from 1 in training, 0 in evaluation.
            train: whether the view is one for training.

        Returns:
            uint8 (B, T, H, W, C).

        """


@runtime_checkable
class NamedSource(Protocol):
    """A source whose features may be kept on the disk."""

    @property
    def id(self) -> str:
        """The same for the same pixels, in every process and at any time."""


class MultiViewSource(ClipSource, Protocol):
    """Clips of which there is more to see than `ClipSource.batch` shows in evaluation."""

    @property
    def num_views(self) -> int:
        """How many views `batch_view` knows, at least one."""

    def batch_view(self, indices: Sequence[int] | Tensor, number: int) -> Tensor:
        """Read one view of each clip, without augmentation.

        Args:
            indices: of the clips, in 0..N-1.
            number: of the view, from 0.

        Returns:
            uint8 (B, T, H, W, C).

        """
