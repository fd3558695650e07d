"""Multi-objective asynchronous successive halving: which trials are worth more of their epochs.

ASHA (Li et al. 2020, arXiv 1810.05934) compares trials at rungs, epochs 1, 3, 9 say, and lets the
best 1/eta of each go on. With two objectives "the best" are the first 1/eta of a ranking by
dominance (MO-ASHA: Schmucker et al. 2021, arXiv 2106.12639; see `results.ranking`). Here one
objective, the number of trainable parameters, is known exactly before a trial starts: so at a
rung a trial is beaten by those alone that are as cheap or cheaper, and better by now.

A plain state machine: it knows no Tune, no Ray, no study and no clock.

The life of a trial here, in the `promotion` variant:

1. `report` at an epoch that is no rung: CONTINUE.
2. `report` at a rung: it is entered there, and PAUSE.
3. `next_promotion` names it when it is among the best 1/eta of its rung, highest rung first; it
   goes on to the next rung, from its checkpoint, in any group.
4. Past the last rung it runs to its end; `remove` forgets a trial that failed.

In the `stopping` variant a rung answers at once with CONTINUE or STOP, and nothing comes back.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import compress
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.results.front import to_costs
from vpetl_ray.results.objectives import LOWEST
from vpetl_ray.results.ranking import Ranking

Variant = Literal["promotion", "stopping"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
Promote = Literal["gain", "rank"]
PROMOTE: tuple[Promote, ...] = get_args(Promote)


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What it is worth to train trials on that wait, and to begin a new one in their place."""

    of_waiting: Sequence[float]
    """Of each, in the order in which they were asked for."""
    of_new: float | None
    """None where no new trial will be begun."""


Judge = Callable[[Sequence[str]], Worth | None]
"""Judges trials that wait by their ids; None where too little is known for it."""


class Decision(Enum):
    """What becomes of a trial after an epoch."""

    CONTINUE = "continue"
    """It trains its next epoch."""
    PAUSE = "pause"
    """It waits with its checkpoint, and may be promoted later."""
    STOP = "stop"
    """It ends here."""


@dataclass(frozen=True, kw_only=True)
class RungEntry:
    """A trial as it was at a rung."""

    trial: str
    params: int
    top1: float
    costs: tuple[float, ...] = ()
    """Further objectives, the same ones of every trial."""


class _Rung:
    """The trials at one rung, and their order.

    With thousands of them, to write each down anew for every ranking would cost more than to rank
    them: so they are kept as the ranking takes them.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.entries: dict[str, RungEntry] = {}
        self._names: list[str] = []
        self._places: dict[str, int] = {}
        self._costs = array("d")
        self._waits = bytearray()
        self._ranked: Ranking | None = None  # until the next entry
        self.num_promoted = 0

    def add(self, entry: RungEntry, *, is_promoted: bool = False) -> None:
        """Enter a trial, or enter it again with what is known now."""
        if entry.trial in self.entries:
            self.remove(entry.trial)
        self.entries[entry.trial] = entry
        self._places[entry.trial] = len(self._names)
        self._names.append(entry.trial)
        self._costs.extend(_as_costs(entry))
        self._waits.append(not is_promoted)
        self.num_promoted += is_promoted
        self._ranked = None

    def remove(self, trial: str) -> None:
        """Forget a trial, if it is there."""
        if trial not in self.entries:
            return
        left = [(e, self.is_promoted(e.trial)) for e in self.entries.values() if e.trial != trial]
        self._clear()
        for entry, is_promoted in left:
            self.add(entry, is_promoted=is_promoted)

    def promote(self, trial: str) -> None:
        """Note that it goes on."""
        self.num_promoted += self._waits[self._places[trial]]
        self._waits[self._places[trial]] = False

    def is_promoted(self, trial: str) -> bool:
        """Whether it went on."""
        return not self._waits[self._places[trial]]

    def waiting(self) -> list[str]:
        """Those that were not promoted, in the order in which they came."""
        return list(compress(self._names, self._waits))

    def first_waiting(self, num: int, spread: str) -> str | None:
        """Of the `num` best, the first that was not promoted; None if all of them were."""
        return self._first(np.frombuffer(bytes(self._waits), dtype=np.bool_), num, spread)

    def is_among_best(self, trial: str, num: int, spread: str) -> bool:
        """Whether a trial is one of the `num` best."""
        is_it = np.zeros(len(self._names), dtype=np.bool_)
        is_it[self._places[trial]] = True
        return self._first(is_it, num, spread) is not None

    def _first(self, is_wanted_N: NDArray[np.bool_], num: int, spread: str) -> str | None:
        if self._ranked is None:
            costs = np.frombuffer(self._costs.tobytes()).reshape(len(self._names), -1)
            self._ranked = Ranking(costs, spread)
        index = self._ranked.first_wanted(is_wanted_N, num)
        return None if index is None else self._names[index]


def _as_costs(entry: RungEntry) -> list[float]:
    """What a ranking compares, less is better: decades of what a trial costs, and its accuracy."""
    values = np.array([[max(entry.params, 1.0), *entry.costs, entry.top1]], dtype=np.float64)
    values[:, :-1] = np.log10(np.maximum(values[:, :-1], LOWEST))
    is_better_high = [False] * (values.shape[1] - 1) + [True]
    costs: list[float] = to_costs(values, is_better_high)[0].tolist()
    return costs


def default_rungs(epochs: int) -> tuple[int, ...]:
    """Rungs for trials of so many epochs: after a sixteenth and a quarter of them, or after one.

    >>> default_rungs(70), default_rungs(8), default_rungs(2), default_rungs(1)
    ((4, 17), (2,), (1,), ())
    """
    rungs = tuple(rung for share in (16, 4) if (rung := epochs // share) >= 1)
    return rungs or ((1,) if epochs > 1 else ())


class Halving:
    """The rungs of one search.

    Args:
        rungs: epochs at which trials are compared, ascending.
        eta: of the trials at a rung, the best 1 / eta go on.
        variant: promotion or stopping, see the module.
        spread: a key of `ranking.SPREADS`.
        promote: by what is promoted: by rank alone, or by gain where `judge` can tell it.

    Raises:
        ValueError: rungs that do not ascend from 1, or an eta that is not above 1.
    """

    def __init__(
        self,
        rungs: Sequence[int],
        *,
        eta: float = 2.0,
        variant: Variant = "promotion",
        spread: str = "epsilon_net",
        promote: Promote = "gain",
    ) -> None:
        if list(rungs) != sorted(set(rungs)) or (rungs and rungs[0] < 1):
            raise ValueError(f"rungs must be ascending epochs from 1, got {list(rungs)}")
        if not eta > 1:
            raise ValueError(f"eta must be above 1, got {eta}")
        self._rungs = {epoch: _Rung() for epoch in rungs}
        self._eta = eta
        self._variant = variant
        self._spread = spread
        self._by_gain = promote == "gain"
        self.judge: Judge = lambda waiting: None
        """Says what it is worth to train trials on that wait."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which trials are compared."""
        return tuple(self._rungs)

    def sentence(self, num_trials: int, epochs: int) -> str:
        """Say what stopping early comes to.

        >>> Halving([1], eta=4).sentence(30, epochs=4)
        'after epoch 1, at most 7 of 30 trials go on: about 42% of the epochs'
        """
        reached, before, spent, parts = num_trials, 0, 0, []
        for rung in self.rungs:
            spent += reached * (rung - before)
            going_on = int(reached / self._eta)
            parts.append(f"after epoch {rung}, at most {going_on} of {reached} trials go on")
            reached, before = going_on, rung
        spent += reached * (epochs - before)
        return f"{'; '.join(parts)}: about {spent / (num_trials * epochs):.0%} of the epochs"

    def report(
        self,
        trial: str,
        *,
        epoch: int,
        params: int,
        top1: float,
        costs: tuple[float, ...] = (),
    ) -> Decision:
        """Decide what becomes of a trial that has finished an epoch short of its last one.

        A trial that reports the same rung again (it was taken up after a crash) keeps its place.

        Args:
            trial: its id.
            epoch: from 1.
            params: what it trains.
            top1: validation accuracy after this epoch, percent.
            costs: further objectives as they are now, the same ones of every trial.
        """
        rung = self._rungs.get(epoch)
        if rung is None:
            return Decision.CONTINUE
        if trial not in rung.entries:
            rung.add(RungEntry(trial=trial, params=params, top1=top1, costs=costs))
        if self._variant == "promotion":
            return Decision.CONTINUE if rung.is_promoted(trial) else Decision.PAUSE
        num_kept = max(1, int(len(rung.entries) / self._eta))
        is_kept = rung.is_among_best(trial, num_kept, self._spread)
        return Decision.CONTINUE if is_kept else Decision.STOP

    def next_promotion(self) -> str | None:
        """Name the trial that should go on next, and count it as promoted; None if there is none.

        In the stopping variant nothing waits, so there is none.
        """
        if self._variant == "stopping":
            return None
        waiting = self._waiting_within_quota() if self._by_gain else []
        worth = self.judge(waiting) if self._by_gain else None
        trial = self._best_ranked() if worth is None else _most_worthy(waiting, worth)
        if trial is not None:
            self._rungs[self.epoch_of(trial)].promote(trial)
        return trial

    def _waiting_within_quota(self) -> list[str]:
        """Trials that wait at a rung from which fewer than 1 / eta have gone on."""
        return [
            trial
            for rung in self._rungs.values()
            if rung.num_promoted < int(len(rung.entries) / self._eta)
            for trial in rung.waiting()
        ]

    def _best_ranked(self) -> str | None:
        for rung in reversed(self._rungs.values()):
            num = int(len(rung.entries) / self._eta)
            trial = rung.first_waiting(num, self._spread) if num else None
            if trial is not None:
                return trial
        return None

    def epoch_of(self, trial: str) -> int:
        """Tell the highest rung that a trial has reached, 0 if none."""
        return max((e for e, rung in self._rungs.items() if trial in rung.entries), default=0)

    def remove(self, trial: str) -> None:
        """Forget a trial that failed: it can't be promoted, and it beats nothing."""
        for rung in self._rungs.values():
            rung.remove(trial)

    def entries(self) -> Mapping[int, tuple[RungEntry, ...]]:
        """Return what is known at each rung, in the order in which it came."""
        return {epoch: tuple(rung.entries.values()) for epoch, rung in self._rungs.items()}

    def restore(
        self,
        trial: str,
        params: int,
        curve: Mapping[int, float],
        costs: Mapping[int, tuple[float, ...]] | None = None,
    ) -> None:
        """Enter a trial at the rungs that it has left behind, in a search that goes on.

        Others are compared with it there, and it is not promoted again.

        Args:
            trial: its id.
            params: what it trains.
            curve: epoch to top-1.
            costs: epoch to further objectives.
        """
        for at, rung in self._rungs.items():
            if at in curve:
                further = costs[at] if costs else ()
                entry = RungEntry(trial=trial, params=params, top1=curve[at], costs=further)
                rung.add(entry, is_promoted=True)


def _most_worthy(waiting: Sequence[str], worth: Worth) -> str | None:
    """Name the trial that is worth most, unless a new one is worth more."""
    if not waiting:
        return None
    best = int(np.argmax(worth.of_waiting))
    if worth.of_new is not None and worth.of_waiting[best] < worth.of_new:
        return None
    return waiting[best]
