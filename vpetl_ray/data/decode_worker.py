"""The process that decodes for a `DecodePool`: a path in by line, a clip out as header and bytes.

python -m vpetl_ray.data.decode_worker '{"frames": 8, ...}' BYTES THREADS

Beyond what it holds when it is ready, it may take so many bytes of address space. A video that asks
for more, whatever its header said, is unreadable; neither the machine nor another video notices.
Where that is more than the machine has left, Linux is told to end this process before any other.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decode import decode_clip
from vpetl_ray.data.decoded import UnreadableVideoError

_NO_MEMORY = "decoding it takes more memory than a video may"


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    _limit_threads(int(sys.argv[3]))
    spec = ClipSpec(**json.loads(sys.argv[1]))
    _limit_memory(int(sys.argv[2]))
    # The answers keep the pipe to themselves: whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _send(answers, {"ready": True})
    for line in sys.stdin.buffer:
        _answer(answers, json.loads(line), spec)


def _limit_threads(number: int) -> None:
    """Let FFmpeg take the machine for one of so many cores.

    Left alone, it starts a thread a core for each video it opens and again for each frame that it
    converts, 20 a clip of 8 small frames on two cores: 6.1 ms of CPU time in place of 1.4.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return  # no Linux: it is slower
    paths = {line.split()[-1] for line in maps.read_text().splitlines() if "libavutil" in line}
    for path in paths:
        ctypes.CDLL(path).av_cpu_force_count(number)


def _limit_memory(num_bytes: int) -> None:
    mine = Path("/proc/self")
    if not mine.exists():
        return  # no Linux: the machine's memory is the limit
    with suppress(OSError):  # where that is not allowed, the limit below still is
        (mine / "oom_score_adj").write_text("1000")
    size = int((mine / "statm").read_text().split()[0]) * resource.getpagesize()
    limit, most = size + num_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _answer(answers: BinaryIO, request: dict[str, Any], spec: ClipSpec) -> None:
    try:
        clip = decode_clip(request["path"], spec, num_segments=request["num_segments"])
    except UnreadableVideoError as error:
        _send(answers, {"error": str(error)})
    except Exception as error:  # noqa: BLE001  (one strange file must not end the build)
        is_memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        reason = f"the decoder failed: {type(error).__name__}: {error}"
        _send(answers, {"error": _NO_MEMORY if is_memory else reason})
    else:
        _send(answers, {"shape": clip.shape}, clip.data.cast("B"))


def _send(answers: BinaryIO, header: dict[str, object], payload: memoryview | None = None) -> None:
    answers.write(json.dumps(header).encode() + b"\n")
    if payload is not None:
        answers.write(payload)
    answers.flush()


if __name__ == "__main__":
    main()
