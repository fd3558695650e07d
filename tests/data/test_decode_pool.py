"""Decoder processes answer in order, and one that dies or hangs costs its video alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import VideoMaker
from vpetl_ray.data import decode_pool
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decode import decode_clip
from vpetl_ray.data.decode_pool import DecodePool
from vpetl_ray.data.decoded import UnreadableVideoError
from vpetl_ray.errors import DataError

SPEC = ClipSpec(frames=4, stride=1, short_side=16)

_FAKE_WORKER = """
import json, os, sys, time
out = sys.stdout.buffer
out.write(b'{"ready": true}\\n'); out.flush()
for line in sys.stdin:
    path = json.loads(line)["path"]
    if path == "crash":
        os.kill(os.getpid(), 11)
    if path == "half":
        out.write(b'{"shape": [4, 2, 2, 3]}\\n123'); out.flush()
        os._exit(1)
    if path == "hang":
        time.sleep(60)
    out.write(b'{"shape": [1, 1, 1, 3]}\\n' + bytes([int(path)] * 3)); out.flush()
"""


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoder processes that start at once and misbehave on command."""
    script = tmp_path / "worker.py"
    script.write_text(_FAKE_WORKER)
    monkeypatch.setattr(decode_pool, "WORKER_COMMAND", (sys.executable, str(script)))


def test_processes_give_what_decoding_here_gives(tmp_path: Path, make_video: VideoMaker) -> None:
    paths = [str(make_video(tmp_path / f"{i}.mp4", shade=i)) for i in range(5)]
    (tmp_path / "odd 'name'\n.mp4").write_text("text")
    paths.insert(2, str(tmp_path / "odd 'name'\n.mp4"))
    with DecodePool(SPEC, 2) as pool:
        outcomes = list(pool.decode(paths))
        segments = list(pool.decode(paths[:2], num_segments=3))
    assert isinstance(outcomes[2], UnreadableVideoError)
    for path, outcome in zip(paths, outcomes, strict=True):
        if outcome is not outcomes[2]:
            np.testing.assert_array_equal(outcome, decode_clip(path, SPEC))
    for path, outcome in zip(paths[:2], segments, strict=True):
        np.testing.assert_array_equal(outcome, decode_clip(path, SPEC, num_segments=3))


@pytest.mark.usefixtures("fake_worker")
@pytest.mark.parametrize("num_processes", [1, 3])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [("crash", f"crashed the decoder \\(-{signal.SIGSEGV:d}\\)"), ("half", "crashed"),
     ("hang", "took more than 1 s")],
    ids=["crash", "dies in the middle of an answer", "hang"],
)  # fmt: skip
def test_a_decoder_that_dies_or_hangs_costs_one_video(
    num_processes: int, bad: str, reason: str
) -> None:
    paths = [str(i) for i in range(20)]
    paths.insert(7, bad)
    with DecodePool(SPEC, num_processes, seconds_a_video=1) as pool:
        outcomes = list(pool.decode(paths))
    with pytest.raises(UnreadableVideoError, match=reason):
        raise outcomes.pop(7)  # type: ignore[misc]
    assert [int(clip[0, 0, 0, 0]) for clip in outcomes] == list(range(20))  # type: ignore[index]


@pytest.mark.usefixtures("fake_worker")
def test_one_pool_decodes_several_lists_with_the_same_processes() -> None:
    with DecodePool(SPEC, 2) as pool:
        for _ in range(3):
            outcomes = list(pool.decode(str(i) for i in range(30)))
            assert [int(clip[0, 0, 0, 0]) for clip in outcomes] == list(range(30))  # type: ignore[index]
        assert len(pool._workers) <= 2


@pytest.mark.usefixtures("fake_worker")
def test_leaving_in_the_middle_ends_the_processes() -> None:
    with DecodePool(SPEC, 2) as pool:
        outcomes = pool.decode(str(i % 200) for i in range(100_000))
        next(outcomes)
        pids = [worker.pid for worker in pool._workers]
    outcomes.close()
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_decoder_that_cannot_start_is_an_error_and_not_a_bad_video(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (sys.executable, "-c", "raise ImportError('no such codec')")
    monkeypatch.setattr(decode_pool, "WORKER_COMMAND", command)
    with DecodePool(SPEC, 2) as pool, pytest.raises(DataError, match="no such codec"):
        list(pool.decode(["a", "b"]))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="threads are counted on Linux")
def test_a_decoder_that_is_told_to_use_one_thread_starts_no_other(
    tmp_path: Path, make_video: VideoMaker
) -> None:
    path = make_video(tmp_path / "video.mp4", width=256, height=256)
    count = (
        "import os, sys, av\n"
        "from vpetl_ray.data.decode_worker import _limit_threads\n"
        "_limit_threads(int(sys.argv[2]))\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "with av.open(sys.argv[1]) as container:\n"
        "    frame = next(container.decode(video=0))\n"
        "    print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    started = [
        int(subprocess.check_output([sys.executable, "-c", count, str(path), str(number)]))
        for number in (1, 3)
    ]
    assert started[0] == 0
    assert started[1] > 0
