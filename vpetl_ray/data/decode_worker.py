"""The process that decodes for a `DecodePool`: a path in by line, a clip out as header and bytes.

python -m vpetl_ray.data.decode_worker '{"frames": 8, ...}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, BinaryIO

import torch

from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decode import decode_clip
from vpetl_ray.data.decoded import UnreadableVideoError


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    spec = ClipSpec(**json.loads(sys.argv[1]))
    # The answers keep the pipe to themselves: whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _send(answers, {"ready": True})
    for line in sys.stdin.buffer:
        _answer(answers, json.loads(line), spec)


def _answer(answers: BinaryIO, request: dict[str, Any], spec: ClipSpec) -> None:
    try:
        clip = decode_clip(request["path"], spec, num_segments=request["num_segments"])
    except UnreadableVideoError as error:
        _send(answers, {"error": str(error)})
    except MemoryError:
        _send(answers, {"error": "decoding it takes more memory than there is"})
    except Exception as error:  # noqa: BLE001  (one strange file must not end the build)
        _send(answers, {"error": f"the decoder failed: {type(error).__name__}: {error}"})
    else:
        _send(answers, {"shape": clip.shape}, clip.data.cast("B"))


def _send(answers: BinaryIO, header: dict[str, object], payload: memoryview | None = None) -> None:
    answers.write(json.dumps(header).encode() + b"\n")
    if payload is not None:
        answers.write(payload)
    answers.flush()


if __name__ == "__main__":
    main()
