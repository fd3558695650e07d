"""Folders on object storage (S3 and what speaks like it, GCS, HDFS) or on a path, by pyarrow.

What is read often is copied to each node once and read from its disk; what one node made, the
others fetch. A folder counts once its list of files stands beside it, which is written last.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from vpetl_ray.addresses import has_secret, without_secrets
from vpetl_ray.data.file_lock import file_lock
from vpetl_ray.errors import DataError

log = logging.getLogger(__name__)

STORE_VARIABLE = "VPETL_STORE"
"""Names the store behind the nodes' caches: `s3://bucket/path`, or a folder."""
WHOLE = ".whole.json"
"""The list of a folder's files, beside them."""
_CHUNK = 16 * 2**20
_ASIDE = "aside"
"""How the name of a file ends that is still being written."""
_SECONDS_TO_CONNECT, _SECONDS_OF_SILENCE, _ATTEMPTS = 5, 10, 3
_FAILURES = (OSError, pa.ArrowException)


def place_within(folder: Path, relative: str, url: str) -> Path:
    """Tell where a file of a list goes.

    Raises:
        DataError: outside of the folder.
    """
    place = folder / relative
    if not place.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{url}: its list names {relative!r}, outside of it")
    return place


class SharedStore:
    """Whole folders under one address.

    Args:
        url: `s3://bucket/path`, `gs://...`, or a path. Credentials come from where the provider's
            own tools have them (`AWS_ACCESS_KEY_ID`, an instance's role); `AWS_ENDPOINT_URL` names
            another server than Amazon's.
        beat_seconds: how often who makes something says so.
        named: what the user gave `url` by, for a message.

    Raises:
        DataError: there is no such kind of storage.
    """

    def __init__(self, url: str, *, beat_seconds: float = 5.0, named: str = STORE_VARIABLE) -> None:
        self.url = url.rstrip("/")
        self._beat = beat_seconds
        if "://" in url and has_secret(url):
            raise DataError(
                f"{named}: {without_secrets(url)}: holds a password or token; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment instead"
            )
        try:
            if "://" in url:
                self._fs, self._root = _open_url(self.url)
            else:
                self._fs, self._root = fs.LocalFileSystem(), str(Path(url).absolute())
        except (ValueError, *_FAILURES) as error:
            why = " ".join(str(error).split())
            raise DataError(f"{named}: {url} cannot be used: {why}") from error

    def fetch(self, name: str, target: Path) -> bool:
        """Copy a folder from the store to `target`, which is not there yet; False: it has none.

        Raises:
            DataError: the store cannot be read.
        """
        listed = self._listed(name)
        with self._explained():
            if listed is None:
                return False
            temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}"
            try:
                for relative, size in listed.items():
                    place = place_within(temporary, relative, self.url)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    self.get_file(f"{name}/{relative}", place)
                    if place.stat().st_size != size:
                        raise DataError(f"{self.url}/{name}/{relative} is not whole")
                shutil.rmtree(target, ignore_errors=True)
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return True

    def push(self, name: str, source: Path) -> None:
        """Copy a folder into the store; it counts when the last byte is there.

        Raises:
            DataError: the store cannot be written.
        """
        with self._explained():
            files = {
                path.relative_to(source).as_posix(): path.stat().st_size
                for path in sorted(source.rglob("*"))
                if path.is_file() and path.name != "lock"
            }
        for relative in files:
            self.push_file(f"{name}/{relative}", source / relative)
        self.write(f"{name}/{WHOLE}", json.dumps(files).encode())

    def push_file(self, name: str, source: Path) -> None:
        """Copy one file into the store; who reads it sees the old one or the new one (not of HDFS).

        Raises:
            FileNotFoundError: there is no such file here.
            DataError: the store cannot be written.
        """
        with source.open("rb") as file, self._explained(), self._opened(name) as out:
            while content := file.read(_CHUNK):
                out.write(content)

    def get_file(self, name: str, place: Path) -> None:
        """Copy one file from the store.

        Raises:
            DataError: the store cannot be read, or lacks it.
        """
        with (
            self._explained(),
            self._fs.open_input_stream(self._path(name)) as file,
            place.open("wb") as out,
        ):
            while content := file.read(_CHUNK):
                out.write(content)

    def read(self, name: str) -> bytes | None:
        """Give what is stored under a name; None: nothing.

        Raises:
            DataError: the store cannot be read.
        """
        with self._explained():
            try:
                with self._fs.open_input_stream(self._path(name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Store something under a name.

        Raises:
            DataError: the store cannot be written.
        """
        with self._explained(), self._opened(name) as out:
            out.write(content)

    def delete(self, name: str) -> None:
        """Remove what is stored under a name.

        Raises:
            DataError: the store cannot be written, or has nothing there.
        """
        with self._explained():
            self._fs.delete_file(self._path(name))

    def has(self, name: str) -> bool:
        """Whether a folder is there, whole.

        Raises:
            DataError: the store cannot be read.
        """
        return self._listed(name) is not None

    def _listed(self, name: str) -> dict[str, int] | None:
        """Read the sizes of a folder's files by name; None where it is not there, or not whole."""
        content = self.read(f"{name}/{WHOLE}")
        try:
            return None if content is None else dict(json.loads(content))
        except (ValueError, TypeError):  # half of a list, from a file system that was full
            return None

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Be the one who makes a folder; others wait until it is there, or its maker is gone.

        Yields:
            True to the one; False to those who waited, for whom it is there now.
        """
        mine = f"{time.time():017.6f}-{secrets.token_hex(4)}"
        claims = f".claims/{name.replace('/', '_')}"
        is_over = threading.Event()
        self.write(f"{claims}/{mine}", b"")
        beat = threading.Thread(target=self._keep, args=(f"{claims}/{mine}", is_over), daemon=True)
        beat.start()
        try:
            time.sleep(0.5)  # whoever was earlier by his clock has written his claim by now
            while self._first(claims, mine) != mine and not self.has(name):
                time.sleep(self._beat / 5)
            yield not self.has(name)
        finally:
            is_over.set()
            beat.join()
            with suppress(DataError):
                self.delete(f"{claims}/{mine}")

    def _first(self, claims: str, mine: str) -> str:
        """Find the earliest claim whose owner still says so."""
        with self._explained():
            found = self._fs.get_file_info(
                fs.FileSelector(self._path(claims), allow_not_found=True)
            )
        now = time.time()
        alive = [
            file.base_name
            for file in found
            if file.is_file and file.extension != _ASIDE
            if file.base_name == mine or now - file.mtime.timestamp() < 6 * self._beat
        ]
        return min(alive, default=mine)

    def _keep(self, claim: str, is_over: threading.Event) -> None:
        while not is_over.wait(self._beat):
            with suppress(DataError):
                self.write(claim, b"")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _opened(self, name: str) -> Iterator[pa.NativeFile]:
        """Open what takes the name when the block ends well; object storage does that by itself."""
        path = self._path(name)
        if not isinstance(self._fs, fs.LocalFileSystem):
            with self._fs.open_output_stream(path) as out:
                yield out
            return
        aside = Path(f"{path}.{secrets.token_hex(4)}.{_ASIDE}")
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._fs.open_output_stream(str(aside)) as out:
                yield out
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            why = " ".join(str(error).split())[:300]
            raise DataError(f"{self.url}: {why}") from error


def _open_url(url: str) -> tuple[fs.FileSystem, str]:
    """Open an address so that one that hangs is known to within a minute."""
    found, root = fs.FileSystem.from_uri(url)
    if isinstance(found, fs.S3FileSystem) and "?" not in url:
        server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        scheme, _, host = server.rpartition("://")
        found = fs.S3FileSystem(
            region=found.region,
            endpoint_override=host or None,
            scheme=scheme or None,
            connect_timeout=_SECONDS_TO_CONNECT,
            request_timeout=_SECONDS_OF_SILENCE,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )
    elif isinstance(found, fs.GcsFileSystem) and "?" not in url:
        found = fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_SECONDS_OF_SILENCE))
    return found, root


def shared_store() -> SharedStore | None:
    """Open what `VPETL_STORE` names; None where it names nothing."""
    url = os.environ.get(STORE_VARIABLE)
    return SharedStore(url) if url else None


def fetched_once(name: str, target: Path, store: SharedStore) -> bool:
    """Fetch a folder to this node unless it is there; of several processes, one does."""
    with file_lock(target.parent / f".{target.name}.lock"):
        return target.exists() or store.fetch(name, target)
