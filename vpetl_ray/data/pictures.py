"""Sets of pictures: a picture is a video of one frame, and stored like any other.

torchvision reads the published files; a video's rules hold for the rest (scaled by the shorter
side, repeated where a clip has more frames than one).
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.data_set import DataSet, PictureReader, VideoItem
from vpetl_ray.data.decoded import Clip, UnreadableVideoError
from vpetl_ray.data.layout import need_folder, wrong_layout
from vpetl_ray.data.scale import check_frame_size, scale_short_side
from vpetl_ray.data.splits import ByClass, complete_splits
from vpetl_ray.errors import DataError

Published = TypeVar("Published")


def picture_clips(
    reader: PictureReader, items: Iterable[VideoItem], spec: ClipSpec, num_threads: int
) -> Generator[Clip | UnreadableVideoError, None, None]:
    """Yield a clip of one frame, or the reason why there is none, for each item in order.

    Args:
        reader: gives the pictures.
        items: which ones.
        spec: frames and stored size.
        num_threads: decoders of picture files let others work meanwhile; 0 reads in this thread.

    """
    remaining = iter(items)
    if num_threads == 0:
        yield from (_clip(reader, item, spec) for item in remaining)
        return
    pending: deque[Future[Clip | UnreadableVideoError]] = deque()
    with ThreadPoolExecutor(num_threads) as threads:
        try:
            while True:  # a bounded number ahead of the writer, so that memory stays flat
                for item in itertools.islice(remaining, 4 * num_threads - len(pending)):
                    pending.append(threads.submit(_clip, reader, item, spec))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _clip(reader: PictureReader, item: VideoItem, spec: ClipSpec) -> Clip | UnreadableVideoError:
    from PIL import Image  # noqa: PLC0415  (reading a store does without it)

    try:
        picture_HWC = reader.read(item)
        check_frame_size(*picture_HWC.shape[:2])
    except UnreadableVideoError as error:
        return error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        text = getattr(error, "strerror", None) or str(error).split(" '")[0]
        return UnreadableVideoError(f"it cannot be read as a picture: {text.lower()}")
    frames_THWC = scale_short_side(torch.from_numpy(picture_HWC.copy())[None], spec.short_side)
    return np.ascontiguousarray(frames_THWC.expand(spec.frames, -1, -1, -1).numpy())


def data_set_of_pictures(
    name: str,
    root: Path,
    classes: Sequence[str],
    given: Mapping[str, Iterable[VideoItem]],
    read: Callable[[VideoItem], NDArray[np.uint8]],
    *,
    val_share: float,
    split_seed: int,
) -> DataSet:
    """Make a data set of published train and test pictures; validation is split off train."""
    grouped: dict[str, ByClass[VideoItem]] = {}
    for split, items in given.items():
        by_class = grouped.setdefault(split, {})
        for item in items:
            by_class.setdefault(classes[item.label], []).append(item)
    splits, notes = complete_splits(grouped, val_share, split_seed)
    for split, pictures in splits.items():
        if not pictures:
            raise DataError(f"data.path: {root}: the {split} split has no pictures")
    return DataSet(
        name=name,
        root=root,
        classes=tuple(classes),
        splits={
            split: tuple(item for label in classes for item in pictures.get(label, ()))
            for split, pictures in splits.items()
        },
        notes=notes,
        pictures=PictureReader(read=read, version=_reader_version()),
    )


def find_published(root: Path, base: str, files: Sequence[str], expected: str) -> Path:
    """Return the folder in which torchvision looks for `base`; the user may have named `base`.

    Raises:
        DataError: it is not there, or lacks one of `files`; the message shows what was expected.

    """
    need_folder(root, expected)
    if root.name == base and not (root / base).exists():
        root = root.parent
    for name in files:
        if not (root / base / name).exists():
            raise wrong_layout(root, f"there is no {Path(base, name)}", expected)
    return root


def read_published(root: Path, what: str, read: Callable[[], Published]) -> Published:
    """Let one of torchvision's readers read what it finds; its complaints become a DataError."""
    try:
        return read()
    except RuntimeError as error:  # the files are there, so it is their checksums
        raise DataError(
            f"data.path: {root}: the files of {what} are damaged or not the published ones "
            "(their MD5 sums differ); fetch them again"
        ) from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"data.path: {root}: {what} cannot be read: {error}") from error


def _reader_version() -> str:
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torchvision", "pillow"))
    return f"{', '.join(versions)}, rules 1"
