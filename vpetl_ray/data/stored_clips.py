"""One split of a clip store as training reads it: batches of what the model sees, as bytes.

Satisfies `training.clips.ClipSource` by its shape; this floor does not know training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vpetl_ray.data.clip_file import ClipFile
from vpetl_ray.data.config import ViewSpec
from vpetl_ray.data.transforms import crop_view, draw_generator, eval_view, train_view


class StoredClips:
    """The clips of one split, seen through one view.

    `train_views` counts the views that training goes through, None where every epoch draws a new
    one. When there is one, and the clips are stored at its size, a batch is a plain gather from the
    mapped file.

    Final figures average over `num_views` views of a clip, which `batch_view` gives one by one:
    its segments along the video times crops along the longer side.
    """

    def __init__(
        self,
        file: ClipFile,
        view: ViewSpec,
        *,
        frames: int,
        num_segments: int,
        seed: int,
        source_id: str,
        reopen: tuple[Callable[..., StoredClips], tuple[Any, ...]],
    ) -> None:
        self._file = file
        self._view = view
        self._frames = frames
        self._num_segments = num_segments
        self._seed = seed
        self._reopen = reopen
        self.labels = file.labels
        """Class indices, int64 of shape (N,)."""
        self.train_views = view.num_train_views
        self.id = source_id
        """The same for the same pixels: a cache may key on it."""
        is_all_of_it = (file.heights == view.size).all() and (file.widths == view.size).all()
        self._is_plain = bool(view.is_fixed and is_all_of_it)
        self._num_crops = 1 if is_all_of_it else view.test_crops
        self.num_views = num_segments * self._num_crops
        """How many views `batch_view` knows: segment after segment, in each crop after crop."""

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
            epoch: 1-based; with the seed and the index it decides a clip's augmentation, that of
                the view whose turn it is.
            train: whether to augment, where the view has augmentation at all.

        Raises:
            DataError: a clip's bytes do not match their checksum.

        """
        chosen = [int(index) for index in indices]
        if self._is_plain:
            return torch.stack([self.clip(index) for index in chosen])
        if not train or self._view.is_fixed:
            return torch.stack([eval_view(self.clip(i), self._view) for i in chosen])
        number = epoch if self.train_views is None else (epoch - 1) % self.train_views + 1
        return torch.stack(
            [
                train_view(self.clip(i), self._view, draw_generator(self._seed, number, i))
                for i in chosen
            ]
        )

    def batch_view(self, indices: Sequence[int] | torch.Tensor, number: int) -> torch.Tensor:
        """Return one view of each clip, uint8 of shape (B, T, size, size, 3), unaugmented.

        Args:
            indices: which clips, in this order.
            number: which view, from 0 to `num_views` - 1.

        Raises:
            DataError: a clip's bytes do not match their checksum.
            IndexError: there is no such view.

        """
        segment, crop = divmod(number, self._num_crops)
        if not 0 <= number < self.num_views:
            raise IndexError(f"there are {self.num_views} views, there is no number {number}")
        clips = (self.segment(int(index), segment) for index in indices)
        return torch.stack([crop_view(clip, self._view, crop, self._num_crops) for clip in clips])

    def clip(self, index: int) -> torch.Tensor:
        """Return a whole stored clip, (T, H, W, 3), as a read-only view of the mapped file."""
        return self._file.clip(index)[: self._frames]

    def segment(self, index: int, segment: int) -> torch.Tensor:
        """Return the clip of one segment; where there is one segment, that is the clip itself."""
        start = self._frames * (1 + segment) if self._num_segments > 1 else 0
        return self._file.clip(index)[start : start + self._frames]

    def video(self, index: int) -> str:
        """Return the path of the clip's video, relative to the data set's root."""
        return self._file.video(index)
