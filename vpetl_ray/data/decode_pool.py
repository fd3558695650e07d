"""Decoding in several processes, in the order asked for; a crash costs one video.

Plain child processes of our own rather than `multiprocessing`: that would run the caller's main
module again in each of them (the search's door with Ray and all), and a pool of it is broken by
the first child that dies.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np

from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decoded import UnreadableVideoError
from vpetl_ray.data.decoder import Outcome
from vpetl_ray.errors import DataError

SECONDS_A_VIDEO = 300.0
"""A video that takes longer is given up as unreadable."""
BYTES_A_VIDEO = 6 * 2**30
"""A video that takes more memory, too. The largest frames that are taken, 8192 x 8192, need up to 4
GB with their decoder's threads."""

WORKER_COMMAND = (sys.executable, "-m", "vpetl_ray.data.decode_worker")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def useful_processes(num_videos: int) -> int:
    """Return how many decoder processes are worth starting for so many videos."""
    return 1 + num_videos // 50  # one takes seconds to start: fifty small videos take it less


class DecodePool:
    """Child processes that decode clips of one spec; 0 processes decode in the caller's own.

    A `decoder.Decoder`, and a context manager: leaving it, by an exception too, ends the processes.

    Args:
        spec: what to store of a video.
        num_processes: at most so many.
        seconds_a_video: one that takes longer is unreadable.
        bytes_a_video: one that takes more memory, too.
        num_threads: of each process; by default the cores are shared out.
    """

    def __init__(
        self,
        spec: ClipSpec,
        num_processes: int,
        *,
        seconds_a_video: float = SECONDS_A_VIDEO,
        bytes_a_video: int = BYTES_A_VIDEO,
        num_threads: int | None = None,
    ) -> None:
        self.spec = spec
        self._num_threads = num_threads or max(1, usable_cores() // max(1, num_processes))
        self._bytes = bytes_a_video
        self._seconds = seconds_a_video
        self.num_processes = num_processes
        self._threads = ThreadPoolExecutor(max(1, num_processes))  # it starts none before use
        self._own = threading.local()
        self._workers: list[_Worker] = []
        self._is_closed = False

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_closed = True
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)

    @property
    def place(self) -> str:
        """How many processes there are."""
        number = max(1, self.num_processes)
        return f"{number} {'process' if number == 1 else 'processes'}"

    def decode(
        self, paths: Iterable[str], *, num_segments: int = 1
    ) -> Generator[Outcome, None, None]:
        """Yield a clip, or the reason why there is none, for each path in order.

        With more segments than one, those follow in the same array; see `decode_clip`.
        """
        if self.num_processes == 0:
            yield from (self._decode_here(path, num_segments) for path in paths)
            return
        remaining = iter(paths)
        # A bounded number ahead of the writer: memory stays flat whatever the data set's size.
        pending: deque[Future[Outcome]] = deque()
        try:
            while True:
                for path in itertools.islice(remaining, 4 * self.num_processes - len(pending)):
                    pending.append(self._threads.submit(self._decode_there, path, num_segments))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _decode_here(self, path: str, num_segments: int) -> Outcome:
        # Imported here: where child processes decode, this one does without pytorchvideo.
        from vpetl_ray.data.decode import decode_clip  # noqa: PLC0415

        try:
            return decode_clip(path, self.spec, num_segments=num_segments)
        except UnreadableVideoError as error:
            return error

    def _decode_there(self, path: str, num_segments: int) -> Outcome:
        """Run in a thread that has a child process to itself, started again when it has died."""
        worker: _Worker | None = getattr(self._own, "worker", None)
        if self._is_closed:
            return UnreadableVideoError("decoding was broken off")
        if worker is None or not worker.is_alive:
            worker = _Worker(self.spec, self._bytes, self._num_threads)
            self._own.worker = worker
            self._workers.append(worker)
            if self._is_closed:
                worker.kill()
                worker.close()
        return worker.decode(path, num_segments, self._seconds)


class _Worker:
    """One child process."""

    def __init__(self, spec: ClipSpec, bytes_a_video: int, num_threads: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        package_parent = str(Path(__file__).parents[2])
        search_path = [package_parent, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and words)
            [*WORKER_COMMAND, json.dumps(asdict(spec)), str(bytes_a_video), str(num_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
                "OMP_NUM_THREADS": "1",
            },
        )
        self._is_ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.wait()
        self._stderr.close()

    def decode(self, path: str, num_segments: int, seconds: float) -> Outcome:
        self._wait_until_ready()
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            return self._ask({"path": path, "num_segments": num_segments})
        except (OSError, EOFError, ValueError):
            is_late = not timer.is_alive()
            self._process.kill()
            code = self._process.wait()
            why = f"took more than {seconds:g} s" if is_late else f"crashed the decoder ({code})"
            return UnreadableVideoError(f"it {why}")
        finally:
            timer.cancel()

    def _ask(self, request: dict[str, str | int]) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        header = json.loads(self._process.stdout.readline() or b"?")
        if "error" in header:
            return UnreadableVideoError(header["error"])
        clip = np.empty(header["shape"], dtype=np.uint8)
        view = clip.data.cast("B")
        if self._process.stdout.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise EOFError
        return clip

    def _wait_until_ready(self) -> None:
        if self._is_ready:
            return
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self._process.wait()
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").strip().splitlines()
            raise DataError(f"a decoder process could not start: {(lines or ['killed'])[-1]}")
        self._is_ready = True
