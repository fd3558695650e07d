"""Files that are either the old ones or the new ones, never half of one."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from vpetl_ray.errors import SearchError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well.

    The bytes reach the disk before the name does, so a reader (or a machine that loses its power)
    sees the old file or the new one. If the block raises, the old file stays and nothing is left.

    Raises:
        SearchError: the file cannot be written (no room, no permission, no such folder).
    """
    # The suffix is kept because writers such as matplotlib choose their format by it.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except OSError as error:
        raise SearchError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
