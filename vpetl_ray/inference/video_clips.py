"""From a video file to what a model saw of such files when it was evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpetl_ray.data.config import ClipSpec, ViewSpec
from vpetl_ray.data.decode import decode_clip
from vpetl_ray.data.decoded import UnreadableVideoError
from vpetl_ray.data.transforms import crop_view, eval_view
from vpetl_ray.errors import DataError
from vpetl_ray.training.model_facts import DataFacts


class VideoClips:
    """Decodes and crops as the search's own evaluation did.

    Args:
        facts: from the adapter file.

    """

    def __init__(self, facts: DataFacts) -> None:
        clip: dict[str, Any] = dict(facts.clip)
        self._spec = ClipSpec(**clip, test_segments=facts.segments)
        self._view = ViewSpec(size=facts.size, train_crop="centre", test_crops=facts.crops)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one view: (T, H, W, 3)."""
        return (self._spec.frames, self._view.size, self._view.size, 3)

    def centre(self, path: str | Path) -> Tensor:
        """Decode the middle of a video: uint8 (T, size, size, 3).

        Raises:
            DataError: the file cannot be read.

        """
        return eval_view(self._decode(path, 1), self._view)

    def all_views(self, path: str | Path) -> Tensor:
        """Decode every view of multi-view figures: uint8 (V, T, size, size, 3).

        Raises:
            DataError: the file cannot be read.

        """
        segments, frames = self._spec.test_segments, self._spec.frames
        stored_THWC = self._decode(path, segments)
        # With several segments, the clip from the middle comes first and is none of them.
        clips = torch.split(stored_THWC, frames)[1 if segments > 1 else 0 :]
        is_all_of_it = stored_THWC.shape[1:3] == (self._view.size, self._view.size)
        crops = 1 if is_all_of_it else self._view.test_crops
        return torch.stack(
            [crop_view(clip, self._view, i, crops) for clip in clips for i in range(crops)]
        )

    def _decode(self, path: str | Path, num_segments: int) -> Tensor:
        if not Path(path).is_file():
            raise DataError(f"{path}: there is no such file")
        try:
            clip = decode_clip(str(path), self._spec, num_segments=num_segments)
        except UnreadableVideoError as error:
            raise DataError(f"{path}: {error}") from error
        return torch.from_numpy(clip)
