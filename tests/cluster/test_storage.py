"""Clips, features and results on a real S3-compatible server, and on a path."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.doors.conftest import SPEC
from tests.s3_server import KEYS, s3_server
from vpetl_ray.data import prepare_store as preparing
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.node_copy import local_clips
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.data.shared_store import WHOLE, SharedStore, fetched_once
from vpetl_ray.errors import DataError
from vpetl_ray.training.feature_store import FeatureStore


@pytest.fixture(scope="module")
def s3():
    """The server's environment, as a node has it."""
    with s3_server("lab") as address:
        yield {**KEYS, "AWS_ENDPOINT_URL": address}


@pytest.fixture(params=["s3", "path"])
def store_url(request, s3, tmp_path, monkeypatch):
    """One place of each kind, empty."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return f"s3://lab/{tmp_path.name}" if request.param == "s3" else str(tmp_path / "shared")


def folder_with(tmp_path, **files):
    for name, content in files.items():
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / name).write_bytes(content)
    return tmp_path / "made"


def test_a_folder_comes_back_as_it_was_and_counts_only_when_it_is_whole(store_url, tmp_path):
    store = SharedStore(store_url)
    made = folder_with(tmp_path, a=b"1" * 40_000_000, b=b"")
    assert not store.fetch("clips/x", tmp_path / "got")
    store.push_file("clips/x/a", made / "a")  # a push that died
    assert not store.fetch("clips/x", tmp_path / "got")
    store.push("clips/x", made)
    assert store.fetch("clips/x", tmp_path / "got")
    for name in ("a", "b"):
        assert (tmp_path / "got" / name).read_bytes() == (made / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == ["a", "b"]


def test_who_reads_a_file_that_is_being_replaced_has_the_old_one(store_url, tmp_path):
    store = SharedStore(store_url)
    store.write("x/a", b"old")
    os.mkfifo(tmp_path / "slow")
    copy = threading.Thread(target=store.push_file, args=("x/a", tmp_path / "slow"))
    copy.start()
    with (tmp_path / "slow").open("wb", buffering=0) as source:
        source.write(b"new")
        time.sleep(0.2)
        assert store.read("x/a") == b"old"
    copy.join()
    assert store.read("x/a") == b"new"


def test_a_folder_with_half_a_list_is_not_there_and_is_made_again(store_url, tmp_path):
    store = SharedStore(store_url, beat_seconds=0.2)
    made = folder_with(tmp_path, a=b"bytes")
    store.push("x", made)
    store.write(f"x/{WHOLE}", store.read(f"x/{WHOLE}")[:-1])
    assert not store.fetch("x", tmp_path / "got")
    with store.claim("x") as is_mine:
        assert is_mine
        store.push("x", made)
    assert store.fetch("x", tmp_path / "got")


def test_of_many_processes_of_a_node_one_fetches(store_url, tmp_path, monkeypatch):
    store = SharedStore(store_url)
    store.push("x", folder_with(tmp_path, a=b"bytes"))
    fetches = []
    fetch = store.fetch
    monkeypatch.setattr(store, "fetch", lambda *words: fetches.append(1) or fetch(*words))
    threads = [
        threading.Thread(target=fetched_once, args=("x", tmp_path / "node" / "x", store))
        for _ in range(6)
    ]
    (tmp_path / "node").mkdir()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetches) == 1


def test_two_nodes_that_want_the_same_store_decode_it_once(
    store_url, videos, tmp_path, monkeypatch
):
    monkeypatch.setenv("VPETL_STORE", store_url)
    config = DataConfig(source="folder", path=str(videos), frames=4, stride=1, size=32)
    builds, build = [], preparing.build_clip_store

    def counted(*words, **more):
        builds.append(1)
        time.sleep(1.0)  # long enough that both are at it
        return build(*words, **more)

    monkeypatch.setattr(preparing, "build_clip_store", counted)
    found = {}

    def prepare(node):
        found[node] = prepare_store(config, root=tmp_path / node, num_processes=0).store

    nodes = [threading.Thread(target=prepare, args=(f"node{n}",)) for n in range(2)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    assert len(builds) == 1
    one, two = (found[f"node{n}"] for n in range(2))
    assert one.path != two.path
    for split in one.manifest.files:
        name = f"{split}.arrow"
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()

    # A worker on a third node, which has only heard of the driver's path.
    monkeypatch.setenv("VPETL_CACHE", str(tmp_path / "node3"))
    copy = local_clips("/driver/only/clips/" + one.path.name)
    assert copy.is_relative_to(tmp_path / "node3")
    ClipStore.open(copy).verify()


def test_a_claim_whose_owner_has_died_is_passed_over(store_url):
    store = SharedStore(store_url, beat_seconds=0.2)
    store.write(".claims/x/0000000000.000001-dead", b"")
    with store.claim("x") as is_mine:
        assert is_mine


def test_features_that_one_node_computed_are_fetched_by_another(store_url, tmp_path):
    shared, computed = SharedStore(store_url), []

    def compute(start, stop):
        computed.append((start, stop))
        return torch.arange(start, stop, dtype=torch.float32)[:, None].repeat(1, 3)

    def node(name):
        return FeatureStore(
            tmp_path / name,
            fetch=lambda key, target: fetched_once(f"features/{key}", target, shared),
            push=lambda key, source: shared.push(f"features/{key}", source),
        )

    first = node("a").get({"of": "x"}, num_clips=10, chunk=4, compute=compute)
    num_computed = len(computed)
    second = node("b").get({"of": "x"}, num_clips=10, chunk=4, compute=compute)
    assert torch.equal(first.tensor, second.tensor)
    assert len(computed) == num_computed


def test_a_local_copy_is_made_once_and_a_node_that_sees_nothing_says_so(
    videos, tmp_path, monkeypatch
):
    config = DataConfig(source="folder", path=str(videos), frames=4, stride=1, size=32)
    store = prepare_store(config, root=tmp_path / "shared", num_processes=0).store
    assert local_clips(store.path) == store.path
    monkeypatch.setenv("VPETL_LOCAL", str(tmp_path / "disk"))
    copy = local_clips(store.path)
    assert copy == tmp_path / "disk" / "clips" / store.path.name
    before = copy.stat().st_mtime_ns
    assert local_clips(store.path) == copy
    assert copy.stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"the node .* does not see /nowhere/x: VPETL_CACHE must"):
        local_clips("/nowhere/x")


def test_storage_that_does_not_answer_is_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="VPETL_STORE: nosuch://x cannot be used"):
        SharedStore("nosuch://x")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    store = SharedStore("s3://lab/x?endpoint_override=http%3A%2F%2F127.0.0.1%3A1")
    with pytest.raises(DataError, match="s3://lab/x"):
        store.fetch("a", tmp_path / "a")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_search_into_a_bucket_goes_on_from_it_on_another_machine(s3, videos, tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPEC.replace("path: videos", f"path: {videos}"))

    def search(machine, *words):
        environment = {
            **os.environ, **s3, "VPETL_CACHE": str(tmp_path / machine),
            "VPETL_STORE": "s3://lab/store",
        }  # fmt: skip
        return subprocess.run(
            [
                sys.executable, "-m", "vpetl_ray.search", "tiny.yaml", "--out",
                "s3://lab/runs/tiny", "--set", "resources.groups=1", *words,
            ],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    first = search("one", "--trials", "2")
    assert first.returncode == 0, first.stderr
    assert "results are at s3://lab/runs/tiny" in first.stdout
    again = search("two", "--trials", "2")
    assert again.returncode == 2
    assert "holds a search already" in again.stderr
    second = search("two", "--trials", "3", "--resume")
    assert second.returncode == 0, second.stderr
    assert "[3/3]" in second.stdout
    assert "[2/3]" not in second.stdout
    assert not list(Path(tmp_path / "two" / "clips").glob("*/.building*"))

    def door(name, *words):
        return subprocess.run(
            [sys.executable, "-m", f"vpetl_ray.{name}", *map(str, words)],
            cwd=tmp_path, env={**os.environ, **s3, "VPETL_CACHE": str(tmp_path / "three")},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    picked = door("pick", "s3://lab/runs/tiny", "--knee")
    assert picked.returncode == 0, picked.stderr
    model = re.search(r"predict (s3://lab/runs/tiny@t\d{4}) VIDEO", picked.stdout)[1]
    video = next(videos.rglob("*.mp4"))
    seen = door("predict", model, video, "--json")
    assert seen.returncode == 0, seen.stderr
    assert json.loads(seen.stdout)["video"] == str(video)
    missing = door("pick", "s3://lab/runs/nothing")
    assert missing.returncode == 2
    assert missing.stderr == "s3://lab/runs/nothing: there are no results there\n"
