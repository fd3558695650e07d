"""Features on the disk: shared, rebuilt, evicted, and never a reason to stand still."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_features import run
from torch import Tensor
from toy_training import LAST_STAGE, FakeClips

from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.training.feature_store import FeatureStore
from vpetl_ray.training.features import FeatureCache

NUM_CLIPS, CHUNK = 20, 3


def rows(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop).float()[:, None] * torch.tensor([1.0, -1.0])


class Counted:
    """Computes features, and keeps in mind which."""

    def __init__(self, compute: Callable[[int, int], Tensor] = rows) -> None:
        self.asked: list[tuple[int, int]] = []
        self._compute = compute

    def __call__(self, start: int, stop: int) -> Tensor:
        self.asked.append((start, stop))
        return self._compute(start, stop)


def get(store: FeatureStore, compute: Callable[[int, int], Tensor], name: str = "a") -> Tensor:
    found = store.get({"name": name}, num_clips=NUM_CLIPS, chunk=CHUNK, compute=compute)
    assert found is not None
    return found.tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_come_back_as_they_were_computed(tmp_path: Path, dtype: torch.dtype):
    compute = Counted(lambda start, stop: rows(start, stop).to(dtype))
    for _ in range(2):
        found = get(FeatureStore(tmp_path), compute)
        assert found.dtype == dtype
        assert torch.equal(found, rows(0, NUM_CLIPS).to(dtype))
    example, *chunks = compute.asked
    assert example == (0, 1)
    assert chunks == [(n, min(n + CHUNK, NUM_CLIPS)) for n in range(0, NUM_CLIPS, CHUNK)]


def test_a_damaged_part_is_computed_again(tmp_path: Path):
    get(FeatureStore(tmp_path), rows)
    (data,) = tmp_path.glob("*/features.bin")
    content = bytearray(data.read_bytes())
    content[9 * 8] ^= 1  # clip 9 is in the chunk of 9 to 11
    data.write_bytes(content)
    compute = Counted()
    assert torch.equal(get(FeatureStore(tmp_path), compute), rows(0, NUM_CLIPS))
    assert compute.asked == [(9, 12)]
    assert data.read_bytes() != content


@pytest.mark.parametrize("name", ["facts.json", "features.bin", "chunks.bin"])
def test_a_file_that_was_cut_off_means_a_new_start(tmp_path: Path, name: str):
    get(FeatureStore(tmp_path), rows)
    (path,) = tmp_path.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:5])
    assert torch.equal(get(FeatureStore(tmp_path), rows), rows(0, NUM_CLIPS))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path):
    store = FeatureStore(tmp_path, max_bytes=2 * NUM_CLIPS * 8)
    held = get(store, rows, "a")
    for seconds, name in enumerate("baca"):
        get(store, rows, name)
        for facts in tmp_path.glob("*/facts.json"):  # as if it had been a while
            if time.time() - facts.stat().st_mtime < 1:
                os.utime(facts, (seconds, seconds))
    kept = Counted()
    get(store, kept, "a")
    assert kept.asked == []
    gone = Counted()
    get(store, gone, "b")
    assert len(gone.asked) > 1
    assert store.num_bytes() <= store.max_bytes
    assert torch.equal(held, rows(0, NUM_CLIPS))


def test_what_cannot_be_kept_is_left_out(tmp_path: Path):
    (tmp_path / "file").touch()
    for store in (FeatureStore(tmp_path, max_bytes=8), FeatureStore(tmp_path / "file")):
        assert store.get({}, num_clips=NUM_CLIPS, chunk=CHUNK, compute=rows) is None


OTHER = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_feature_store import *

def slow(start, stop):
    if (start, stop) == (3, 6):
        print("at it", flush=True)
        time.sleep(float(sys.argv[2]))
    return rows(start, stop)

get(FeatureStore(sys.argv[1]), slow)
"""


def at_its_second_chunk(folder: Path, *, seconds: float) -> "subprocess.Popen[str]":
    """Another process, which takes so long for clips 3 to 5."""
    command = [sys.executable, "-c", OTHER, str(folder), str(seconds)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "at it\n"
    return other


def test_two_processes_share_the_work(tmp_path: Path):
    other = at_its_second_chunk(tmp_path, seconds=1)
    compute = Counted()
    assert torch.equal(get(FeatureStore(tmp_path), compute), rows(0, NUM_CLIPS))
    assert other.wait() == 0
    assert compute.asked == [(n, min(n + CHUNK, NUM_CLIPS)) for n in range(6, NUM_CLIPS, CHUNK)]


def test_the_chunk_of_a_process_that_was_killed_is_done_by_another(tmp_path: Path):
    other = at_its_second_chunk(tmp_path, seconds=60)
    other.send_signal(signal.SIGKILL)
    other.wait()
    compute = Counted()
    assert torch.equal(get(FeatureStore(tmp_path), compute), rows(0, NUM_CLIPS))
    assert compute.asked[0] == (3, 6)


def test_one_that_stands_still_is_not_waited_for_for_ever(tmp_path: Path):
    other = at_its_second_chunk(tmp_path, seconds=60)
    store = FeatureStore(tmp_path, stall_seconds=0.2)
    assert store.get({"name": "a"}, num_clips=NUM_CLIPS, chunk=CHUNK, compute=rows) is None
    other.kill()
    other.wait()


@pytest.mark.parametrize("config", [LAST_STAGE, PetlConfig()], ids=["last stage", "probe"])
def test_another_worker_trains_without_reading_a_clip(
    model: Backbone, tmp_path: Path, config: PetlConfig
):
    def trained(store: FeatureStore | None) -> tuple[list[float], int]:
        train, val = FakeClips(50, seed=1, train_views=2), FakeClips(22, seed=2)
        results = run(model, train, val, FeatureCache(store=store), config=config)
        return [r.train_loss for r in results], train.num_read + val.num_read

    in_memory, num_read = trained(None)
    assert num_read == 2 * 50 + 22
    store = FeatureStore(tmp_path)
    assert trained(store)[0] == in_memory  # to the bit: computed in the same batches
    assert trained(store) == (in_memory, 0)


def test_other_weights_have_other_features(model: Backbone, tmp_path: Path):
    train, val = FakeClips(24, seed=1), FakeClips(22, seed=2)
    run(model, train, val, FeatureCache(store=FeatureStore(tmp_path)))
    above, below = (model.layers[s].blocks[0].mlp.fc1.bias for s in (1, 0))  # type: ignore[union-attr, index]
    for bias, num_read in ((above, 0), (below, 24 + 22 + 2)):
        train.num_read = val.num_read = 0
        with torch.no_grad():
            bias.add_(0.1)
        run(model, train, val, FeatureCache(store=FeatureStore(tmp_path)))
        with torch.no_grad():
            bias.sub_(0.1)
        assert train.num_read + val.num_read == num_read
