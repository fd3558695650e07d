"""The clip files of a store in the making: what an earlier build kept, and what is decoded now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from vpetl_ray.data.clip_file import ClipWriter, FileSeal
from vpetl_ray.data.clip_recovery import ChangedBytesError, Row, whole_batches
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.data_set import DataSet, Split, VideoItem
from vpetl_ray.data.decoded import UnreadableVideoError
from vpetl_ray.data.decoder import Outcome
from vpetl_ray.data.layout import shown
from vpetl_ray.data.manifest import Skipped
from vpetl_ray.data.partial_build import PartialBuild
from vpetl_ray.errors import DataError

log = logging.getLogger(__name__)

_MANY_SKIPPED = 100
"""A build with too many unreadable videos is broken off when there are as many as this."""


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far a build is; told after every video."""

    num_videos: int
    num_done: int = 0
    num_before: int = 0
    """Those among them that an earlier build, broken off, had dealt with."""
    num_skipped: int = 0
    num_bytes: int = 0
    place: str = ""
    """Where videos are decoded, see `Decoder.place`."""


class StoreFiles:
    """Writes the files of one store, split after split, and keeps count of what is skipped.

    Args:
        data_set: the videos.
        spec: what to keep of each.
        partial: the folder that the files are made in.
        decode: gives the outcome for each of some videos in order, with so many segments.
        max_skipped_share: share of the videos that may be unreadable.
        progress: told after every video.
        place: says where `decode` decodes.

    """

    def __init__(
        self,
        data_set: DataSet,
        spec: ClipSpec,
        partial: PartialBuild,
        decode: Callable[[Sequence[VideoItem], int], Generator[Outcome, None, None]],
        *,
        max_skipped_share: float,
        progress: Callable[[BuildProgress], None] | None,
        place: Callable[[], str],
    ) -> None:
        self._data_set = data_set
        self._spec = spec
        self._partial = partial
        self._decode = decode
        self._max_skipped_share = max_skipped_share
        self._progress = progress
        self._state = BuildProgress(num_videos=data_set.num_videos)
        self._place = place
        self.skipped: list[Skipped] = []

    def write(self) -> dict[str, FileSeal]:
        """Write a file for every split; returns what the manifest keeps of each.

        Raises:
            DataError: too many videos are unreadable, or all of one split.

        """
        files: dict[str, FileSeal] = {}
        for split in self._data_set.splits:
            state, num_skipped = self._state, len(self.skipped)
            try:
                files[split] = self._write_split(split)
            except ChangedBytesError:
                log.info("what is left of %s is of another version", self._partial.file(split))
                self._state, self.skipped = state, self.skipped[:num_skipped]
                self._partial.file(split).unlink()
                files[split] = self._write_split(split)
        check_skipped(self.skipped, self._data_set.num_videos, self._max_skipped_share)
        if empty := [split for split, seal in files.items() if not seal.num_clips]:
            raise DataError(f"none of the {empty[0]} videos can be read:{_listing(self.skipped)}")
        return files

    def _write_split(self, split: Split) -> FileSeal:
        path, frames = self._partial.file(split), self._spec.stored_frames(split)
        with ClipWriter(path, is_continued=path.exists()) as writer:
            number = 0
            for rows in whole_batches(path, frames):
                end = self._end_of(split, rows, number)
                if end is None:
                    break
                self._add(split, writer, range(number, end), iter(rows), is_new=False)
                number = end
            writer.go_on()
            rest = range(number, len(self._data_set.splits[split]))
            with closing(self._decoded(split, rest)) as clips:
                self._add(split, writer, rest, clips, is_new=True)
            return writer.seal(frames)

    def _end_of(self, split: Split, rows: Sequence[Row], number: int) -> int | None:
        """Return the number after the last of these rows' videos; None where they are others."""
        items, skipped = self._data_set.splits[split], self._partial.skipped(split)
        for row in rows:
            while number in skipped:
                number += 1
            if number == len(items) or self._row_of(items[number]) != (row.video, row.label):
                return None
            number += 1
        return number

    def _row_of(self, item: VideoItem) -> tuple[str, int]:
        return self._data_set.name_of(item), item.label

    def _decoded(self, split: Split, numbers: range) -> Generator[Row | str, None, None]:
        """Yield a row, or the reason why there is none, for the videos not known to have none."""
        skipped, items = self._partial.skipped(split), self._data_set.splits[split]
        wanted = [items[number] for number in numbers if number not in skipped]
        with closing(self._decode(wanted, self._spec.segments(split))) as outcomes:
            for item, outcome in zip(wanted, outcomes, strict=True):
                if isinstance(outcome, UnreadableVideoError):
                    yield str(outcome)
                else:
                    yield Row(*self._row_of(item), outcome)

    def _add(
        self,
        split: Split,
        writer: ClipWriter,
        numbers: range,
        rows: Iterator[Row | str],
        *,
        is_new: bool,
    ) -> None:
        """Write the rows of these videos; those that are known to have none are passed over."""
        skipped = self._partial.skipped(split)
        for number in numbers:
            is_known = number in skipped
            row = skipped[number].reason if is_known else next(rows)
            if isinstance(row, str):
                self._skip(split, number, row)
            else:
                writer.add(*row)
            self._tell(0 if isinstance(row, str) else row.clip.nbytes, is_new and not is_known)

    def _skip(self, split: Split, number: int, reason: str) -> None:
        video = self._data_set.name_of(self._data_set.splits[split][number])
        entry = Skipped(path=video, reason=reason)
        self._partial.note_skipped(split, number, entry)
        self.skipped.append(entry)
        if len(self.skipped) >= _MANY_SKIPPED:
            check_skipped(self.skipped, self._data_set.num_videos, self._max_skipped_share)

    def _tell(self, num_bytes: int, is_new: bool) -> None:
        state = self._state
        self._state = replace(
            state,
            num_done=state.num_done + 1,
            num_before=state.num_before + (not is_new),
            num_skipped=len(self.skipped),
            num_bytes=state.num_bytes + num_bytes,
            place=self._place(),
        )
        if self._progress:
            self._progress(self._state)


def check_skipped(skipped: Sequence[Skipped], num_videos: int, max_share: float) -> None:
    """Raise a DataError that lists them if more videos than that share were skipped."""
    if len(skipped) <= max_share * num_videos:
        return
    raise DataError(
        f"{len(skipped)} of {num_videos} videos cannot be read, "
        f"data.max_skipped_share allows {max_share:.0%}:{_listing(skipped)}"
    )


def _listing(skipped: Sequence[Skipped], limit: int = 20) -> str:
    lines = [f"\n  {shown(entry.path)}: {entry.reason}" for entry in skipped[:limit]]
    if len(skipped) > limit:
        lines.append(f"\n  and {len(skipped) - limit} more")
    return "".join(lines)
