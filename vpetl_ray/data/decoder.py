"""What a build asks for clips: the processes of this machine, or those of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decoded import Clip, UnreadableVideoError

Outcome = Clip | UnreadableVideoError


class Decoder(Protocol):
    """Decodes videos side by side."""

    @property
    def place(self) -> str:
        """Where it decodes, for the user: `2 processes`, `12 CPUs of 3 nodes`."""
        ...

    def decode(
        self, paths: Sequence[str], *, num_segments: int = 1
    ) -> Generator[Outcome, None, None]:
        """Yield a clip, or the reason why there is none, for each path in order.

        A bounded number of clips is held, however many paths there are. With more segments than
        one, those follow in the same array; see `decode.decode_clip`.
        """
        ...


MakeDecoder = Callable[[ClipSpec, int], AbstractContextManager[Decoder]]
"""Gives a decoder for clips of a spec; of how many videos, says the second argument."""
