"""The proof: three `ray start` processes, nodes that join and are killed, fronts that are the same.

Accuracies of this tiny task are what they are; that they are equal is what counts.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pandas as pd
import pytest

from tests.cluster.namespaces import Machines
from tests.cluster.nodes import RayNodes
from tests.doors.conftest import SPEC

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Proposals that do not depend on which group was faster.
RANDOM = ("--set", "search.sampler=random")


@pytest.fixture
def project(tmp_path, videos):
    (tmp_path / "tiny.yaml").write_text(SPEC.replace("path: videos", f"path: {videos}"))
    return tmp_path


@pytest.fixture
def nodes(cache):
    """A cluster of a head alone, all on this machine's loopback."""
    with RayNodes(cache) as nodes:
        nodes.head()
        yield nodes


@pytest.fixture(params=["ports", "namespaces"])
def either(request, cache):
    """The same; and its second form, in which each node has addresses and ports of its own."""
    with ExitStack() as stack:
        apart = stack.enter_context(Machines()) if request.param == "namespaces" else None
        nodes = stack.enter_context(RayNodes(cache, machines=apart))
        nodes.head()
        yield nodes


def alone(project, cache, *words, out="alone"):
    """The same search on this machine, as its folder."""
    out = project / out
    done = subprocess.run(
        [sys.executable, "-m", "vpetl_ray.search", "tiny.yaml", "--out", out, *words],
        cwd=project,
        env={**os.environ, "VPETL_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def on_cluster(nodes, project, *words, out="out"):
    """Start it as a job; gives the process that follows it."""
    out = project / out
    return out, nodes.submit("tiny.yaml", "--address", nodes.url, "--out", out, *words, cwd=project)


def wait_for_line(process, *parts, seconds=240):
    """Read on until a line has all these parts; everything that was read."""
    text, deadline = [], time.monotonic() + seconds
    for line in process.stdout:
        text.append(line)
        if all(part in line for part in parts):
            return text
        assert time.monotonic() < deadline, "".join(text)
    raise AssertionError("".join(text))


def ended(process):
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    return text


def trained(folder):
    table = pd.read_parquet(folder / "trials.parquet")
    table = table[table["state"] == "complete"].sort_values("id").set_index("id")
    return table[["trainable_params", "top1", "loss"]]


def front(folder):
    members = json.loads((folder / "front.json").read_text())
    members = members["front"] if isinstance(members, dict) else members
    return [(m["id"], m["trainable_params"], m["top1"], m["test_top1"]) for m in members]


def test_two_groups_on_two_nodes_find_the_front_of_one_machine(nodes, project, cache):
    nodes.join()
    nodes.join()
    nodes.wait_for(3)
    words = (*RANDOM, "--trials", "6", "--set", "resources.groups=2")
    out, job = on_cluster(nodes, project, *words)
    text = ended(job)
    assert "starting 2 worker groups of 1 worker with 1 CPU each" in text
    groups = pd.read_parquet(out / "trials.parquet")["group"].dropna()
    assert set(groups) == {0, 1}  # one CPU a node: each on a node of its own
    here = alone(project, cache, *words)
    pd.testing.assert_frame_equal(trained(out), trained(here))
    assert front(out) == front(here)
    print("front on 2 nodes and on 1:", front(out))


def test_two_ddp_workers_on_different_nodes_find_the_front_of_one_machine(either, project, cache):
    nodes = either
    nodes.join()
    nodes.join()
    nodes.wait_for(3)
    words = ("--trials", "4", "--set", "resources.workers_per_group=2")
    out, job = on_cluster(nodes, project, *words, "--set", "resources.placement=strict_spread")
    text = ended(job)
    assert "starting 1 worker group of 2 workers with 1 CPU each" in text
    here = alone(project, cache, *words)
    pd.testing.assert_frame_equal(trained(out), trained(here))
    assert front(out) == front(here)
    print("front with 2 workers on 2 nodes and on 1:", front(out))


def test_a_node_that_joins_is_used_and_one_that_is_killed_costs_its_last_epoch(
    either, project, cache
):
    nodes = either
    first = nodes.join()
    nodes.wait_for(2)
    words = (*RANDOM, "--trials", "6", "--set", "training.epochs=300")
    out, job = on_cluster(nodes, project, *words)
    said = wait_for_line(job, "starting 1 worker group of 1 worker")
    said += wait_for_line(job, "1 worker group is at work")
    nodes.join()
    nodes.wait_for(3)
    joined = time.monotonic()
    said += wait_for_line(job, "2 worker groups are at work")
    joined = time.monotonic() - joined
    time.sleep(5)  # both have begun a trial
    first.kill()
    killed = time.monotonic()
    said += wait_for_line(job, "1 lost with a node, 1 worker group is at work")
    lost = time.monotonic() - killed
    text = "".join(said) + ended(job)
    table = pd.read_parquet(out / "trials.parquet")
    assert set(table["state"]) <= {"complete", "infeasible"}, text
    here = alone(project, cache, *words, "--set", "resources.groups=1")
    pd.testing.assert_frame_equal(trained(out), trained(here))
    assert front(out) == front(here)
    print(f"joined node at work after {joined:.1f} s, loss noticed after {lost:.1f} s")
    print("every trial complete and as undisturbed; front:", front(out))


def test_two_searches_share_a_cluster(nodes, project):
    nodes.join(num_cpus=2)
    nodes.wait_for(2)
    words = (*RANDOM, "--trials", "3", "--set", "resources.groups=1")
    jobs = [on_cluster(nodes, project, *words, out=name) for name in ("one", "two")]
    for _, job in jobs:
        ended(job)
    one, two = (trained(out) for out, _ in jobs)
    pd.testing.assert_frame_equal(one, two)


def test_four_searches_at_once_have_fair_shares_and_their_own_records(nodes, project, cache):
    nodes.join(num_cpus=2)
    nodes.join(num_cpus=2)
    nodes.wait_for(3)
    long = (*RANDOM, "--trials", "8", "--set", "training.epochs=400", "--set", "seed=0")
    _, job = on_cluster(nodes, project, *long, out="first")
    said = wait_for_line(job, "4 worker groups are at work")
    short = {
        f"seed{seed}": (*RANDOM, "--trials", "4", "--set", f"seed={seed}") for seed in (1, 2, 3)
    }
    others = {name: on_cluster(nodes, project, *words, out=name) for name, words in short.items()}
    said += wait_for_line(job, "given to another search", "1 worker group is at work", seconds=400)
    texts = {name: ended(process) for name, (_, process) in others.items()}
    for name, text in texts.items():
        assert "a fair share beside" in text, text
        table = pd.read_parquet(others[name][0] / "trials.parquet")
        assert len(set(table["group"].dropna())) == 1, text  # one of four is its share
    said += wait_for_line(job, "2 worker groups are at work", seconds=400)  # theirs are free again
    text = "".join(said) + ended(job)
    assert "lost with a node" not in text
    same = {**short, "first": long}
    for name, words in same.items():
        here = alone(project, cache, *words, "--set", "resources.groups=1", out=f"{name}-alone")
        pd.testing.assert_frame_equal(trained(project / name), trained(here))
        assert front(project / name) == front(here)
    sizes = [len(trained(project / name)) for name in same]
    print(f"trials of the four searches: {sizes}, each as if it had been alone")
    print([line for line in text.splitlines() if "at work" in line])


def test_a_search_waits_for_the_nodes_that_it_asks_for(nodes, project):
    words = (*RANDOM, "--trials", "4", "--set", "resources.groups=2")
    out, job = on_cluster(nodes, project, *words, "--set", "resources.wait_minutes=5")
    said = wait_for_line(job, "starting 2 worker groups", "(0 fit now, the others wait for nodes)")
    nodes.join()
    nodes.join()
    text = "".join(said) + ended(job)
    groups = pd.read_parquet(out / "trials.parquet")["group"].dropna()
    assert set(groups) == {0, 1}, text


def test_a_search_for_which_no_node_comes_says_so_and_ends(nodes, project):
    words = (*RANDOM, "--trials", "4", "--set", "resources.wait_minutes=0.2")
    _, job = on_cluster(nodes, project, *words)
    text, _ = job.communicate(timeout=600)
    assert job.returncode == 1, text
    assert "no worker group was ready after 0.2 minutes (resources.wait_minutes)" in text
    assert "Traceback" not in text
