"""A cluster of two nodes on this machine, what decodes on it, and what is said; facts as JSON.

A process of its own, since the tests of this floor are connected to another Ray.

python decode_on_two_nodes.py VIDEOS CACHE [door]
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.folder import list_folder
from vpetl_ray.data.store_files import BuildProgress
from vpetl_ray.errors import VpetlError
from vpetl_ray.tuning import ray_decode
from vpetl_ray.tuning.cluster import ray_session
from vpetl_ray.tuning.ray_decode import RayDecoder

SPEC = ClipSpec(frames=4, stride=1, short_side=16)


def main(videos: Path, cache: Path, *, with_door: bool) -> dict[str, Any]:
    data_set = list_folder("folder", videos, val_share=0.2, split_seed=0)
    facts: dict[str, Any] = {}
    with two_nodes() as cluster:
        if with_door:
            facts["prepare"] = run_prepare(cluster.address, videos, cache / "door")
        with ray_session(cluster.address):
            with RayDecoder(SPEC, 2) as decoder:  # one for all: its processes start slowly
                facts["whole"] = build(data_set, cache / "whole", decoder)
                facts["unseen"] = decode_what_only_the_driver_sees(videos, decoder)
                [node] = cluster.worker_nodes

                def lose_node() -> None:
                    cluster.remove_node(node, allow_graceful=False)
                    wait_for_a_loss(decoder)

                facts["lost"] = build(data_set, cache / "lost", decoder, lose_node)
            facts["cpus_left"] = wait_for_free_cpus(1.0)
    return facts


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """One CPU with the driver, another on the other node."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def build(
    data_set: DataSet, root: Path, decoder: RayDecoder, at_half: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Build the store; do something in the middle."""
    places = set()
    decoder.done_by_node.clear()

    def tell(progress: BuildProgress) -> None:
        places.add(progress.place)
        if at_half and progress.num_done == data_set.num_videos // 2:
            at_half()

    path = build_clip_store(
        data_set,
        SPEC,
        root,
        max_skipped_share=0.1,
        make_decoder=lambda *_: nullcontext(decoder),
        progress=tell,
    )
    return {
        "store": str(path),
        "by_node": list(decoder.done_by_node.values()),
        "places": sorted(places),
    }


def decode_what_only_the_driver_sees(videos: Path, decoder: RayDecoder) -> str:
    number = os.open(next(videos.rglob("*.mp4")), os.O_RDONLY)
    os.dup2(number, 200)
    try:
        list(decoder.decode(["/proc/self/fd/200"]))
    except VpetlError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was said"


def wait_for_a_loss(decoder: RayDecoder) -> None:
    """A worker outlives its node's raylet for a moment, in which it can finish a small build."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for worker in decoder._workers:
            try:
                ray.get(worker.actor.hello.remote(), timeout=10)
            except ray.exceptions.RayActorError:
                return
        time.sleep(0.1)


def run_prepare(address: str, videos: Path, cache: Path) -> dict[str, Any]:
    """Run the door against the cluster, as if this machine had one core."""
    spec = videos.parent / "spec.yaml"
    spec.write_text(
        f"data: {{source: folder, path: {videos}, frames: 4, stride: 1, size: 16, short_side: 16,\n"
        "  max_skipped_share: 0.1}\n"
        "petl: {patt: {d_bottle: 8}}\n"
        "training: {learning_rate: 0.01, epochs: 1, batch_size: 4}\n"
    )
    words = [sys.executable, "-m", "vpetl_ray.prepare", str(spec), "--address", address]
    environment = {**os.environ, "VPETL_CACHE": str(cache)}
    done = subprocess.run(
        words,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )
    return {"code": done.returncode, "said": done.stdout + done.stderr}


def wait_for_free_cpus(wanted: float) -> float:
    """The CPUs that are free once the actors have gone."""
    deadline = time.monotonic() + 20
    while (free := ray.available_resources().get("CPU", 0.0)) < wanted:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return free


if __name__ == "__main__":
    ray_decode._LARGEST_CHUNK = 2  # so that much is still to do when the node is lost
    words = sys.argv[1:]
    print(json.dumps(main(Path(words[0]), Path(words[1]), with_door="door" in words)))
