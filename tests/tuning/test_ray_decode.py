"""Decoding over a cluster: the bytes of one machine, work on every node, and what may go wrong."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.decode_pool import DecodePool
from vpetl_ray.data.demo import encode_mp4
from vpetl_ray.data.folder import list_folder
from vpetl_ray.tuning import ray_decode
from vpetl_ray.tuning.ray_decode import cluster_decoder

SPEC = ClipSpec(frames=4, stride=1, short_side=16)
SCRIPT = Path(__file__).parent / "decode_on_two_nodes.py"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """120 videos, one of them none."""
    root = tmp_path_factory.mktemp("data") / "videos"
    rng = np.random.default_rng(0)
    for split, count in (("train", 50), ("val", 5), ("test", 5)):
        for label in ("jump", "sit"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                frames = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
                encode_mp4(frames, root / split / label / f"{i}.mp4")
    (root / "train" / "jump" / "7.mp4").write_text("text")
    return root


@pytest.fixture(scope="module")
def local(videos, tmp_path_factory):
    """The files of the store that this process builds."""
    data_set = list_folder("folder", videos, val_share=0.2, split_seed=0)
    root = tmp_path_factory.mktemp("local")
    return contents(build_clip_store(data_set, SPEC, root, max_skipped_share=0.1, num_processes=0))


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def facts_of(videos, cache, *words):
    done = subprocess.run(
        [sys.executable, SCRIPT, videos, cache, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(300)  # two nodes of Ray and their decoders start slowly on a busy machine
def test_two_nodes_give_the_store_of_one_machine_and_one_of_them_may_be_lost(
    videos, local, tmp_path
):
    facts = facts_of(videos, tmp_path)
    whole, lost = facts["whole"], facts["lost"]
    assert contents(whole["store"]) == local
    assert len(whole["by_node"]) == 2
    assert sum(whole["by_node"]) == 120
    assert whole["places"] == ["2 CPUs of 2 nodes"]
    assert contents(lost["store"]) == local
    assert lost["places"] == ["1 CPU of 1 node", "2 CPUs of 2 nodes"]
    assert facts["unseen"].startswith("DataError: the node ")
    assert "does not see /proc/self/fd/200 as this machine does: no such file" in facts["unseen"]
    assert facts["cpus_left"] == 1.0, "the actors are gone"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_prepare_decodes_on_the_cluster_that_it_is_given(videos, local, tmp_path):
    said = facts_of(videos, tmp_path, "door")["prepare"]
    assert said["code"] == 0, said
    assert "2 CPUs of 2 nodes" in said["said"]
    [store] = (tmp_path / "door" / "clips").glob("folder-*")
    assert contents(store) == local


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of as many CPUs as it is told, and who has connected to it."""
    connected, cpus = [], [0.0]

    @contextmanager
    def connect(address):
        connected.append(address)
        yield

    @contextmanager
    def start(spec, num_workers):
        yield f"{num_workers} on the cluster"

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_decode, "ray_session", connect)
    monkeypatch.setattr(ray_decode.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_decode, "free_nodes", lambda: [{"CPU": cpus[0]}, {"CPU": 1.5}])
    monkeypatch.setattr(ray_decode, "RayDecoder", start)
    monkeypatch.setattr(ray_decode, "usable_cores", lambda: 4)
    return connected, cpus


def test_without_an_address_nothing_is_decoded_elsewhere(cluster, monkeypatch):
    assert cluster_decoder(None) is None
    assert cluster_decoder("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "here:1")
    assert cluster_decoder(None) is not None


@pytest.mark.parametrize(
    ("num_cpus", "num_videos", "most", "expected"),
    [
        (15.0, 10_000, None, "16 on the cluster"),
        (15.0, 300, None, "7 on the cluster"),
        (15.0, 10_000, 6, "6 on the cluster"),
        (3.0, 10_000, None, 4),
        (15.0, 149, None, 3),
    ],
    ids=["all", "few videos", "as many as asked for", "no larger than this machine", "a handful"],
)
def test_a_cluster_is_used_where_it_is_worth_it(cluster, num_cpus, num_videos, most, expected):
    connected, cpus = cluster
    cpus[0] = num_cpus
    make = cluster_decoder("there:1", num_processes=most)
    assert connected == []
    with make(SPEC, num_videos) as decoder:
        if isinstance(expected, str):
            assert decoder == expected
        else:
            assert isinstance(decoder, DecodePool)
            assert decoder.num_processes == expected
    assert connected == ([] if num_videos < 200 else ["there:1"])
