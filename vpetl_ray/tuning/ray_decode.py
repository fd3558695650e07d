"""Decoding over the CPUs of a Ray cluster: what `data.decode_pool` is for one machine.

An actor on each free CPU decodes chunks of videos, a bounded number of them ahead of the writer,
and the clips come in the order asked for. In the actor, a process of its own decodes: a video that
crashes it costs that video. An actor that is lost, with its node or alone, costs time: its chunks
are decoded again elsewhere. Clips travel through Ray's object store to this machine, which writes
the store; so the videos must lie in a folder that every node sees under the same path.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any

import ray

from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decode_pool import DecodePool, usable_cores, useful_processes
from vpetl_ray.data.decoded import DECODER
from vpetl_ray.data.decoder import Decoder, MakeDecoder, Outcome
from vpetl_ray.errors import DataError, SearchError
from vpetl_ray.tuning.cluster import free_nodes, ray_session

log = logging.getLogger(__name__)

START_SECONDS = 300.0
"""How long a cluster may be without a single decoder that answers."""
GROW_SECONDS = 15.0
"""How often free CPUs are looked for: those of new nodes, and in place of lost ones."""
MOST_ATTEMPTS = 4
"""A chunk whose decoders were lost so often is what they are lost by."""

_CHUNK_BYTES = 4 * 2**20
_LARGEST_CHUNK = 16
_CHUNKS_A_WORKER = 2


def cluster_decoder(
    address: str | None = None, *, num_processes: int | None = None
) -> MakeDecoder | None:
    """Return what decodes over a cluster; None where there is no address of one.

    The cluster is asked only when there is something to decode. One that has no more CPUs free
    than this machine has cores is left alone, and so is any for a handful of videos.

    Args:
        address: of the cluster; by default RAY_ADDRESS. A Ray that is connected already is used.
        num_processes: the most decoder processes; by default one for each free CPU.

    """
    if (address or os.environ.get("RAY_ADDRESS") or "local") == "local":
        return None

    def make(spec: ClipSpec, num_videos: int) -> AbstractContextManager[Decoder]:
        return _cluster_or_pool(address, spec, min(useful_processes(num_videos), most))

    most = num_processes or 10**6
    return make


@contextmanager
def _cluster_or_pool(address: str | None, spec: ClipSpec, wanted: int) -> Iterator[Decoder]:
    cores = usable_cores()
    with ExitStack() as stack:
        free = 0
        if wanted > cores:
            if not ray.is_initialized():
                stack.enter_context(ray_session(address))
            free = sum(int(node.get("CPU", 0)) for node in free_nodes())
        if free > cores:
            yield stack.enter_context(RayDecoder(spec, min(wanted, free)))
        else:
            yield stack.enter_context(DecodePool(spec, min(wanted, cores)))


class DecodeWorker:
    """The actor: decodes on one CPU of its node."""

    def __init__(self, spec: ClipSpec) -> None:
        self._pool = DecodePool(spec, 1, num_threads=1)
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._node = f"{socket.gethostname()} ({address})"

    def hello(self) -> tuple[str, str, str]:
        """Return the node's id and name, and what decodes there."""
        return ray.get_runtime_context().get_node_id(), self._node, DECODER

    def decode(
        self, paths: Sequence[str], sizes: Sequence[int | None], num_segments: int
    ) -> list[Outcome]:
        """Decode videos.

        Args:
            paths: of the videos.
            sizes: in bytes, as the driver sees them; None where it cannot read one either.
            num_segments: see `data.decode.decode_clip`.

        Raises:
            DataError: this node does not see what the driver sees.
        """
        for path, size in zip(paths, sizes, strict=True):
            self._check_sight(path, size)
        return list(self._pool.decode(paths, num_segments=num_segments))

    def _check_sight(self, path: str, size: int | None) -> None:
        if size is None:
            return
        try:
            with open(path, "rb") as file:
                own = os.fstat(file.fileno()).st_size
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
        else:
            if own == size:
                return
            problem = f"there it has {own:,} bytes, here {size:,}"
        raise DataError(
            f"the node {self._node} does not see {path} as this machine does: {problem}. To decode "
            "over a cluster, the videos must lie in a folder that all nodes share under the same "
            "path; without --address they are decoded on this machine"
        )


@dataclass(eq=False)
class _Chunk:
    paths: list[str]
    num_segments: int
    outcomes: list[Outcome] | None = None
    num_attempts: int = 0


@dataclass(eq=False)
class _Worker:
    actor: Any
    node: str = ""
    chunks: dict[Any, _Chunk] = field(default_factory=dict)
    """By the reference of its answer."""


class RayDecoder:
    """Decodes on the free CPUs of the connected cluster; a `data.decoder.Decoder`.

    A context manager: leaving it ends the actors.

    Attributes:
        done_by_node: how many videos each node, by its id, has decoded.
    """

    def __init__(self, spec: ClipSpec, num_workers: int) -> None:
        self._spec = spec
        self._num_workers = num_workers
        self._workers: list[_Worker] = []
        self._starting: dict[Any, _Worker] = {}
        self._todo: deque[_Chunk] = deque()
        self._loss = ""
        self._alone_since = self._grown_at = time.monotonic()
        self.done_by_node: Counter[str] = Counter()

    def __enter__(self) -> RayDecoder:
        self._start(self._num_workers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in (*self._workers, *self._starting.values()):
            ray.kill(worker.actor)

    @property
    def place(self) -> str:
        """How many CPUs of how many nodes take part at the moment."""
        cpus, nodes = len(self._workers), len({worker.node for worker in self._workers})
        return f"{cpus} {_plural('CPU', cpus)} of {nodes} {_plural('node', nodes)}"

    def decode(
        self, paths: Sequence[str], *, num_segments: int = 1
    ) -> Generator[Outcome, None, None]:
        """Yield a clip, or the reason why there is none, for each path in order.

        Raises:
            DataError: a node does not see the videos, or has other versions of the decoder.
            SearchError: no decoder can be started, or each is lost with the same videos.
        """
        remaining = iter(paths)
        size = _chunk_size(self._spec, num_segments)
        ordered: deque[_Chunk] = deque()
        try:
            while True:
                while len(ordered) < (1 + _CHUNKS_A_WORKER) * max(1, len(self._workers)):
                    some = list(islice(remaining, size))
                    if not some:
                        break
                    ordered.append(_Chunk(some, num_segments))
                    self._todo.append(ordered[-1])
                if not ordered:
                    return
                self._assign()
                if ordered[0].outcomes is None:
                    self._wait()
                    continue
                yield from ordered.popleft().outcomes or ()
        finally:  # broken off: what is still being decoded is nobody's any more
            self._todo.clear()
            for worker in self._workers:
                worker.chunks.clear()

    def _assign(self) -> None:
        """Give chunks to the workers with the fewest."""
        while self._todo and self._workers:
            worker = min(self._workers, key=lambda worker: len(worker.chunks))
            if len(worker.chunks) >= _CHUNKS_A_WORKER:
                return
            chunk = self._todo.popleft()
            sizes = [_size(path) for path in chunk.paths]
            answer = worker.actor.decode.remote(chunk.paths, sizes, chunk.num_segments)
            worker.chunks[answer] = chunk

    def _wait(self) -> None:
        """Wait for an answer, or a while; take what has come."""
        answers = {answer: worker for worker in self._workers for answer in worker.chunks}
        waited = [*answers, *self._starting]
        if waited:
            ready, _ = ray.wait(waited, num_returns=1, timeout=GROW_SECONDS)
        else:
            time.sleep(1.0)
            ready = []
        for reference in ready:
            if reference in self._starting:
                self._greet(reference)
            else:
                self._take(answers[reference], reference)
        self._grow()

    def _greet(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            worker.node, node, decoder = ray.get(reference)
        except ray.exceptions.RayError as error:
            self._lose(worker, error)
            return
        if decoder != DECODER:
            ray.kill(worker.actor)
            raise DataError(
                f"the node {node} decodes with {decoder}, this machine with {DECODER}: "
                "all nodes must have the same versions"
            )
        self._workers.append(worker)

    def _take(self, worker: _Worker, answer: Any) -> None:
        try:
            outcomes = ray.get(answer)
        except DataError as error:  # a RayTaskError, too, whose text is a traceback
            raise DataError(str(getattr(error, "cause", error))) from None
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            self._lose(worker, error)
            return
        chunk = worker.chunks.pop(answer)
        chunk.outcomes = outcomes
        self.done_by_node[worker.node] += len(outcomes)

    def _lose(self, worker: _Worker, error: Exception) -> None:
        """Take the chunks of a worker back."""
        self._loss = str(error).strip().splitlines()[0]
        log.debug("a decoder was lost: %s", error)
        if worker in self._workers:
            self._workers.remove(worker)
        ray.kill(worker.actor)
        for chunk in reversed(worker.chunks.values()):
            chunk.num_attempts += 1
            if chunk.num_attempts >= MOST_ATTEMPTS:
                raise SearchError(
                    f"decoding {chunk.paths[0]} and those after it was given up: {MOST_ATTEMPTS} "
                    f"decoders were lost with them, the last because: {self._loss}"
                )
            self._todo.appendleft(chunk)
        worker.chunks.clear()

    def _grow(self) -> None:
        """Use CPUs that have become free; see to it that there is a worker at all."""
        now = time.monotonic()
        if self._workers:
            self._alone_since = now
        elif now - self._alone_since > START_SECONDS:
            raise SearchError(
                f"no decoder could be started on the cluster in {START_SECONDS:g} s"
                + (f"; the last was lost because: {self._loss}" if self._loss else "")
            )
        if now - self._grown_at > GROW_SECONDS or not (self._workers or self._starting):
            self._grown_at = now
            if not self._starting:
                free = sum(int(node.get("CPU", 0)) for node in free_nodes())
                self._start(min(free, self._num_workers - len(self._workers)))

    def _start(self, number: int) -> None:
        remote: Any = ray.remote(DecodeWorker)
        for _ in range(number):
            options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
            worker = _Worker(remote.options(**options).remote(self._spec))
            self._starting[worker.actor.hello.remote()] = worker


def _chunk_size(spec: ClipSpec, num_segments: int) -> int:
    num_clips = 1 + num_segments if num_segments > 1 else 1
    clip_bytes = num_clips * spec.frames * spec.short_side**2 * 3 * 16 // 9
    return max(1, min(_LARGEST_CHUNK, _CHUNK_BYTES // clip_bytes))


def _size(path: str) -> int | None:
    """Return the size of a file that can be read here."""
    try:
        return os.stat(path).st_size if os.access(path, os.R_OK) else None
    except OSError:
        return None


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"
