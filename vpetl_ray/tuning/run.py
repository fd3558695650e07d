"""One search from its plan to its records: worker groups, dispatcher, study, Tune.

Everything that outlives a trial is started here once and ended here, however the search ends.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeAlias

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.schedulers import TrialScheduler

from vpetl_ray.errors import SearchError
from vpetl_ray.results.front import front_of
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.stop_signals import note_signal
from vpetl_ray.tuning.budgeted_study import BudgetedStudy
from vpetl_ray.tuning.dispatcher_actor import is_there
from vpetl_ray.tuning.halving import Halving
from vpetl_ray.tuning.messages import Outcome, OutcomeState, make_task
from vpetl_ray.tuning.rung_checkpoints import RungCheckpoints
from vpetl_ray.tuning.rung_scheduler import RungScheduler
from vpetl_ray.tuning.searcher import ParetoSearcher, SearchObserver
from vpetl_ray.tuning.trainable import NotSaved, TrialTrainable

TestedTrials: TypeAlias = Literal["front", "all"]
"""What is measured on the test split: the front, or all that was trained to its end."""


class TrialsEnd(Enum):
    """Why no more trials were started."""

    FINISHED = "finished"
    """All trials, or all the time, were used."""
    EXHAUSTED = "exhausted"
    """The space had nothing new within the budget before that."""
    INTERRUPTED = "interrupted"
    """By Ctrl-C or SIGTERM; what was running is taken up again on resume."""


class Interruption:
    """An orderly end at the first Ctrl-C or SIGTERM; the second goes to who had them before."""

    def __init__(self, on_interrupt: Callable[[], object]) -> None:
        self._on_interrupt = on_interrupt
        self._before: dict[int, Any] = {}
        self._began = 0.0
        self.happened = False
        # Put to in the handler, which may come while its thread holds any lock: this takes none.
        self._ends: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def is_older_than(self, seconds: float) -> bool:
        """Say whether it happened, so many seconds ago or more."""
        return self.happened and time.monotonic() - self._began >= seconds

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM within the block, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        threading.Thread(target=self._call_end, name="vpetl-interrupt", daemon=True).start()
        self._before = {
            number: signal.signal(number, self._handle)
            for number in _SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN  # as with `nohup`
        }
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._ends.put(lambda: None)

    def _call_end(self) -> None:
        self._ends.get()()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.happened:
            self._hand_on(number, frame)
            return
        self.happened, self._began = True, time.monotonic()
        note_signal(number)
        self._ends.put(self._on_interrupt)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if not callable(handler):  # SIGTERM of a process that is no command of ours
            raise KeyboardInterrupt
        handler(number, frame)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _StopWhen(NotSaved, tune.Stopper):
    """Ends Tune's loop once it was interrupted, trials and all."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._interruption.happened


def run_trials(
    study: BudgetedStudy,
    dispatcher: ActorHandle[Any],
    *,
    num_trials: int,
    num_concurrent: int,
    max_minutes: float | None,
    observers: Sequence[SearchObserver],
    keep_tensors: Callable[[TrialRecord, bytes], None],
    halving: Halving | None = None,
    checkpoints: RungCheckpoints | None = None,
    grows: bool = False,
) -> TrialsEnd:
    """Let Tune run the search on groups that are already started.

    With `grows`, their number changes: one trial more than there are groups is proposed.

    With `halving`, trials are compared at its rungs, and only the best are trained to their end;
    `checkpoints` keeps those that wait, for a search that is cut off.

    Raises:
        SearchError: no worker group is left; finished trials are kept.
        DispatcherLost: the search can begin anew from its study.
    """
    searcher = ParetoSearcher(
        study,
        dispatcher,
        num_trials=num_trials,
        deadline=None if max_minutes is None else time.monotonic() + 60.0 * max_minutes,
        halving=halving,
        checkpoints=checkpoints,
        has_enough=(lambda: _has_waiting(dispatcher)) if grows else None,
        observers=observers,
        keep_tensors=keep_tensors,
    )
    scheduler = RungScheduler(halving, dispatcher, searcher) if halving else None

    def stop() -> None:
        searcher.interrupt()
        dispatcher.close.remote()

    interruption = Interruption(stop)
    with tempfile.TemporaryDirectory(prefix="vpetl_tune_") as scratch, interruption.listening():
        tuner = _tuner(
            searcher,
            scheduler,
            dispatcher,
            _MOST_ACTORS if grows else num_concurrent,
            Path(scratch),
            interruption,
        )
        try:
            with _quiet_tune(), _knowing_what_was_lost(dispatcher):
                tuner.fit()
        except DispatcherLost:
            if not interruption.happened:  # by what ends all processes of a job at once
                raise
    if searcher.failure is not None:
        raise SearchError(searcher.failure)
    if interruption.happened:
        return TrialsEnd.INTERRUPTED
    return TrialsEnd.EXHAUSTED if searcher.is_exhausted else TrialsEnd.FINISHED


_MOST_ACTORS = 10_000
"""Trial actors for which the head has room where something else limits them. Each takes so little
of it that several searches share a cluster."""


_MOST_LOST_ACTORS = 3
"""Times that a trial's actor may die: another takes its place, the group trains on meanwhile."""


class DispatcherLost(SearchError):  # noqa: N818 - it reads as a sentence
    """The actor that the groups ask for work is gone, and with it what was not in the study yet."""


@contextmanager
def _knowing_what_was_lost(dispatcher: ActorHandle[Any]) -> Iterator[None]:
    """Raise `DispatcherLost` where that is behind an error, whatever Tune makes of it."""
    try:
        yield
    except Exception as error:
        if not is_there(dispatcher):
            raise DispatcherLost(_LOST) from error
        raise
    if not is_there(dispatcher):
        raise DispatcherLost(_LOST)


_LOST = "the process that hands out the trials was lost"


def _has_waiting(dispatcher: ActorHandle[Any]) -> bool:
    """Say whether a trial waits for a group, so that the next one to be free finds work."""
    load: Any = ray.get(dispatcher.load.remote())
    _, num_queued = load
    return bool(num_queued)


def _tuner(
    searcher: ParetoSearcher,
    scheduler: TrialScheduler | None,
    dispatcher: ActorHandle[Any],
    num_concurrent: int,
    scratch: Path,
    stop: Interruption,
) -> tune.Tuner:
    trainable = tune.with_parameters(TrialTrainable, dispatcher=dispatcher)
    # Trials compute nothing: asking for a CPU, they would take it from the groups that do. Their
    # number is limited by a share of the head node instead of `max_concurrent_trials`, with which
    # Tune ends and starts an actor for each trial; and one more is asked for while these run, so
    # that a group that becomes free finds work (1.06 s an empty trial, this way 0.30 s). Where the
    # number of groups changes, a fixed share will not do: there, the searcher waits.
    share = math.floor(10_000 / num_concurrent) / 10_000  # Ray counts in ten-thousandths
    near_driver = tune.PlacementGroupFactory([{"node:__internal_head__": share}])
    return tune.Tuner(
        tune.with_resources(trainable, near_driver),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when it is enough
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(scratch),
            verbose=0,
            stop=_StopWhen(stop),
            failure_config=tune.FailureConfig(max_failures=_MOST_LOST_ACTORS),
            callbacks=[],
        ),
    )


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Without Tune's own log files, tables and snapshots: the study is the truth."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "100000",
        "TUNE_MAX_PENDING_TRIALS_PG": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    before = {name: os.environ.get(name) for name in settings}
    level = logging.getLogger("ray.tune").level
    os.environ.update(settings)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("ray.tune").setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def measure_test(
    study: BudgetedStudy,
    dispatcher: ActorHandle[Any],
    read_tensors: Callable[[TrialRecord], bytes],
    *,
    which: TestedTrials,
    num_concurrent: int,
    on_record: Callable[[TrialRecord], None],
) -> None:
    """Measure each of `which` that has no test accuracy yet on the test split, once.

    Args:
        study: which keeps the figures.
        dispatcher: the actor that the worker groups ask for work.
        read_tensors: gives a trial's adapter file.
        which: the front, or every complete trial.
        num_concurrent: worker groups; no more tensors than they need are held at a time.
        on_record: called with each record as it becomes known better.

    Raises:
        SearchError: a group could not evaluate a member.
    """
    with _knowing_what_was_lost(dispatcher):
        _measure_all(study, dispatcher, read_tensors, which, num_concurrent, on_record)


def _measure_all(
    study: BudgetedStudy,
    dispatcher: ActorHandle[Any],
    read_tensors: Callable[[TrialRecord], bytes],
    which: TestedTrials,
    num_concurrent: int,
    on_record: Callable[[TrialRecord], None],
) -> None:
    waiting = deque(untested(study.records, which))
    running: deque[TrialRecord] = deque()
    while waiting or running:
        while waiting and len(running) <= num_concurrent:  # one more: a free group finds work
            record = waiting.popleft()
            task = make_task(
                _test_task(record),
                study.config_of(record.number),
                kind="evaluate",
                start_state=read_tensors(record),
            )
            ray.get(dispatcher.submit.remote(task))
            running.append(record)
        record = running.popleft()
        on_record(study.set_test_top1(record.number, _measured(dispatcher, record)))


def untested(records: Sequence[TrialRecord], which: TestedTrials) -> list[TrialRecord]:
    """Return those that are to be measured on the test split and are not yet."""
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    members = front_of(records) if which == "front" else complete
    return [record for record in members if record.test_top1 is None]


def _test_task(record: TrialRecord) -> str:
    return f"{record.id}.test"


def _measured(dispatcher: ActorHandle[Any], record: TrialRecord) -> float:
    """Wait for a trial's test accuracy, in percent."""
    messages: list[Any] = []
    while not messages or not isinstance(messages[-1], Outcome):
        messages += ray.get(dispatcher.next_results.remote(_test_task(record)))
    outcome = messages[-1]
    if outcome.state is not OutcomeState.DONE:
        raise SearchError(f"{_test_task(record)} could not be measured: {outcome.reason}")
    return float(messages[0].metrics["top1"])
