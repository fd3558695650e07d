"""One split of a clip store as training reads it: batches of what the model sees, as bytes.

Satisfies `training.clips.ClipSource` by its shape; this floor does not know training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vpetl_ray.data.clip_file import ClipFile
from vpetl_ray.data.config import ViewSpec
from vpetl_ray.data.transforms import draw_generator, eval_view, train_view


class StoredClips:
    """The clips of one split, seen through one view.

    `fixed_views` is True when the epoch does not change what `batch` returns. When, besides, the
    clips are stored at the size of the view, a batch is a plain gather from the mapped file.
    """

    def __init__(
        self,
        file: ClipFile,
        view: ViewSpec,
        *,
        seed: int,
        source_id: str,
        reopen: tuple[Callable[..., StoredClips], tuple[Any, ...]],
    ) -> None:
        self._file = file
        self._view = view
        self._seed = seed
        self._reopen = reopen
        self.labels = file.labels
        """Class indices, int64 of shape (N,)."""
        self.fixed_views = view.is_fixed
        self.id = source_id
        """The same for the same pixels: a cache may key on it."""
        self._is_plain = bool(
            view.is_fixed and (file.heights == view.size).all() and (file.widths == view.size).all()
        )

    def __len__(self) -> int:
        return len(self._file)

    def __reduce__(self) -> tuple[Callable[..., StoredClips], tuple[Any, ...]]:
        return self._reopen  # another process maps the file itself; no clip is ever pickled

    def batch(
        self, indices: Sequence[int] | torch.Tensor, *, epoch: int, train: bool
    ) -> torch.Tensor:
        """Return clips as uint8 of shape (B, T, size, size, 3).

        Args:
            indices: which clips, in this order.
            epoch: 1-based; with the seed and the index it decides a clip's augmentation.
            train: whether to augment, where the view has augmentation at all.

        Raises:
            DataError: a clip's bytes do not match their checksum.

        """
        chosen = [int(index) for index in indices]
        if self._is_plain:
            return torch.stack([self._file.clip(index) for index in chosen])
        if not train or self.fixed_views:
            return torch.stack([eval_view(self._file.clip(i), self._view) for i in chosen])
        return torch.stack(
            [
                train_view(self._file.clip(i), self._view, draw_generator(self._seed, epoch, i))
                for i in chosen
            ]
        )

    def clip(self, index: int) -> torch.Tensor:
        """Return a whole stored clip, (T, H, W, 3), as a read-only view of the mapped file."""
        return self._file.clip(index)

    def video(self, index: int) -> str:
        """Return the path of the clip's video, relative to the data set's root."""
        return self._file.video(index)
