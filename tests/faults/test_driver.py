"""The driver killed at random moments of a search, and continued each time."""

import random
import re
import signal
import time
from typing import NamedTuple

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from tests.faults.searches import (
    SearchProcess,
    finished,
    front_of_folder,
    trials_of,
    wait_until,
)
from vpetl_ray.results.records import TrialState
from vpetl_ray.tuning.study_file import StudyFile

pytestmark = pytest.mark.timeout(1500)

WORDS = ("--set", "training.epochs=60", "--set", "search.test=front")


class Killed(NamedTuple):
    runs: list[SearchProcess]
    recovered: list[float]
    """Seconds from each `--resume` to the first trial that it finished, if it was let."""
    known: list[str]
    """Ids that were finished before a kill."""


def kill_often(start, out, words, *, times, seed):
    """Kill a search so often at random: while its groups start, or once it has finished a trial.

    Returns:
        What was killed, and what was seen of it.
    """
    rng = random.Random(seed)
    killed, recovered, known, struck = 0, [], {}, []
    while True:
        began = time.monotonic()
        search = start("--out", out, *words, *(["--resume"] if killed else []))
        if killed < times:
            is_later = times == 1 or rng.random() < 0.5
            reached = " complete: " if is_later else "starting 1 worker"
            wait_until(
                lambda s=search, r=reached: r in s.said or s.process.poll() is not None,
                200,
                lambda s=search: s.said,
            )
            if killed and is_later:
                recovered.append(time.monotonic() - began)
            time.sleep(rng.uniform(0.0, 3.0 if is_later else 8.0))
        if killed < times and search.process.poll() is None:
            search.strike(signal.SIGKILL)
            search.process.wait(10)
            struck.append(search)
            killed += 1
            known.update(dict.fromkeys(finished_of(search, out)))
            continue
        assert search.wait() == 0, search.said
        assert "Traceback" not in search.said
        return Killed(struck, recovered, list(known))


def finished_of(search, out):
    """What it had said was finished, or had written: by then, it may not be lost."""
    return re.findall(r"\] (t\d+) (?:complete|stopped)", search.said) + finished(
        search.folder / out
    )


def count_faults(folder, known):
    """Trials that were finished once and are gone; ids that are in the records or MLflow twice."""
    ids = list(trials_of(folder).id)
    lost = set(known) - set(finished(folder))
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    told = [r.data.tags["vpetl.trial_id"] for r in runs if "vpetl.trial_id" in r.data.tags]
    doubled = len(ids) - len(set(ids)) + len(told) - len(set(told))
    return len(lost), doubled, set(finished(folder)) == set(told)


def trained(folder):
    """What is the same of the same trials, by id."""
    table = trials_of(folder).sort_values("id").set_index("id")
    return table.drop(columns=["seconds", "curve", "group", "at_seconds"])


@pytest.mark.parametrize(
    ("times", "trials"), [(1, 3), pytest.param(20, 30, marks=pytest.mark.faults)]
)
def test_a_driver_that_is_killed_loses_and_doubles_nothing(
    start, project, record_fault, times, trials
):
    words = (*WORDS, "--trials", trials)
    killed = kill_often(start, "out", words, times=times, seed=1)
    out = project / "out"
    lost, doubled, is_told = count_faults(out, killed.known)
    record_fault(
        "driver killed, then --resume", injected=len(killed.runs), lost=lost, doubled=doubled,
        seconds=killed.recovered,
    )  # fmt: skip
    assert len(killed.runs) == times
    assert (lost, doubled, is_told) == (0, 0, True)
    assert len(finished(out)) == trials
    assert all(row.record is not None for row in StudyFile(out / "study.db").read() if row.is_open)
    if times == 1:
        return
    whole = start("--out", "whole", *words)
    assert whole.wait() == 0, whole.said
    pd.testing.assert_frame_equal(trained(out), trained(project / "whole"))
    assert front_of_folder(out) == front_of_folder(project / "whole")
    assert trained(out).loss.nunique() == trials  # no two trials are alike
    for run in killed.runs:  # Ray's own helpers notice after a minute
        run.wait_until_gone(100)


@pytest.mark.faults
def test_rungs_of_a_driver_that_is_killed_agree_with_the_records(start, project, record_fault):
    words = (
        *WORDS, "--trials", 16, "--set", "search.halving.rungs=[8, 24]",
        "--set", "search.sampler=ehvi",
    )  # fmt: skip
    killed = kill_often(start, "out", words, times=8, seed=2)
    out = project / "out"
    lost, doubled, is_told = count_faults(out, killed.known)
    record_fault(
        "driver killed, with rungs", injected=len(killed.runs), lost=lost, doubled=doubled,
        seconds=killed.recovered,
    )  # fmt: skip
    assert (lost, doubled, is_told) == (0, 0, True)
    table = trials_of(out)
    table = table[table.state != TrialState.INFEASIBLE.value]
    assert len(table) == 16
    assert set(table.state) <= {TrialState.COMPLETE.value, TrialState.STOPPED.value}
    halved = table[table.name != "linear probe"]
    assert set(halved.epochs) <= {8, 24, 60}
    # At most the best half went on from each rung; of an odd number, or one that others joined
    # later, one more.
    for rung, beyond in ((8, 24), (24, 60)):
        reached, went_on = (halved.epochs >= rung).sum(), (halved.epochs >= beyond).sum()
        assert went_on <= reached / 2 + 1
    assert not list((out / "paused").glob("*"))
