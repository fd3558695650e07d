"""What a config that was trained by itself leaves in its directory: one record for each seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpetl_ray.results.atomic import replacing, write_json
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.results.tracking import Tracker

CONFIG_FILE = "config.json"
RESULTS_FILE = "results.json"

MEASURES = {
    "val_top1": "top1",
    "test_top1": "test_top1",
    "test_top1_multi_view": "test_top1_multi_view",
}
"""Name in `results.json` to field of the record, all in percent."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the seeds."""

    mean: float
    sd: float | None
    """Sample standard deviation; None for a single seed."""


@dataclass(frozen=True, kw_only=True)
class FinetuneFacts:
    """What `results.json` says about the run as a whole."""

    name: str
    origin: Mapping[str, str]
    """Where the config comes from: a spec, or search and trial."""
    backbone: str
    num_classes: int
    config: Mapping[str, Any]
    """As `PetlConfig.to_dict` gives it."""
    training: Mapping[str, Any]
    """As `Recipe.to_dict` gives it."""
    counts: Mapping[str, int]
    """Trainable parameters by part."""
    views: Mapping[str, int]
    """Of a test clip: segments, crops, and how many that makes."""
    intro: str
    """One paragraph for people."""

    @property
    def trainable_params(self) -> int:
        """All parts together."""
        return sum(self.counts.values())


def spread_of(records: Sequence[TrialRecord], measure: str) -> Spread | None:
    """Mean and deviation of a measure over the seeds that have it; None where none has.

    Args:
        records: of all seeds.
        measure: a name of `MEASURES`.
    """
    values = [getattr(r, MEASURES[measure]) for r in records if r.state is TrialState.COMPLETE]
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(
        mean=statistics.fmean(known), sd=statistics.stdev(known) if len(known) > 1 else None
    )


class SeedFiles:
    """Watches the seeds (see `tuning.searcher.SearchObserver`) and writes what is known so far.

    Files, each whole at any moment: `config.json` at the start, `adapter-seed0.safetensors` and
    `results.json` as seeds are done. MLflow is told from here as well.

    Args:
        directory: exists.
        facts: about the run as a whole.
        tracker: MLflow's side; started.
    """

    def __init__(self, directory: Path, *, facts: FinetuneFacts, tracker: Tracker) -> None:
        self._directory = directory
        self._facts = facts
        self._tracker = tracker
        self._records: list[TrialRecord] = []
        write_json(self._directory / CONFIG_FILE, facts.config)

    @property
    def records(self) -> list[TrialRecord]:
        """Of the seeds that have ended, in the order in which they were asked for."""
        return sorted(self._records, key=lambda record: record.number)

    def adapter_path(self, seed_id: str) -> Path:
        """Where a seed's trained tensors are."""
        return self._directory / f"adapter-{seed_id}.safetensors"

    def keep_tensors(self, record: TrialRecord, tensors: bytes) -> None:
        """Keep the tensors of a seed that is trained.

        Raises:
            SearchError: the file cannot be written.
        """
        with replacing(self.adapter_path(record.id)) as path:
            path.write_bytes(tensors)

    def on_start(self, trial_id: str, trainable_params: int, name: str | None) -> None:
        """Nothing is written about a seed that has not ended."""

    def on_epoch(self, trial_id: str, row: EpochRow) -> None:
        """See `on_start`."""

    def on_record(self, record: TrialRecord) -> None:
        """Take the record of a seed that has ended.

        Raises:
            SearchError: a file cannot be written.
        """
        self._records.append(record)
        write_json(self._directory / RESULTS_FILE, self._document())
        path = self.adapter_path(record.id)
        self._tracker.log_trial(record, path if path.exists() else None)
        self._tracker.update_result(
            self._metrics(),
            files=[self._directory / name for name in (RESULTS_FILE, CONFIG_FILE)],
            note=self._note(),
        )

    def _document(self) -> dict[str, Any]:
        facts = self._facts
        spreads = {measure: spread_of(self._records, measure) for measure in MEASURES}
        return {
            "name": facts.name,
            "from": dict(facts.origin),
            "backbone": facts.backbone,
            "num_classes": facts.num_classes,
            "config": facts.config,
            "training": facts.training,
            "trainable_params": facts.trainable_params,
            "counts": dict(facts.counts),
            "views": dict(facts.views),
            "mean": {name: spread.mean for name, spread in spreads.items() if spread},
            "sd": {name: spread.sd for name, spread in spreads.items() if spread},
            "seeds": [self._entry(record) for record in self.records],
        }

    def _entry(self, record: TrialRecord) -> dict[str, Any]:
        path = self.adapter_path(record.id)
        return {
            "seed": record.config["seed"],
            "state": record.state.value,
            "reason": record.reason,
            **{name: getattr(record, field) for name, field in MEASURES.items()},
            "val_loss": record.loss,
            "views": self._facts.views["total"],
            "epochs": record.epochs,
            "seconds": record.seconds,
            "adapter": path.name if path.exists() else None,
            "curve": [dict(vars(row)) for row in record.curve],
        }

    def _metrics(self) -> dict[str, float]:
        if len(self._records) < 2:
            return {}
        metrics: dict[str, float] = {}
        for measure, field in MEASURES.items():
            spread = spread_of(self._records, measure)
            if spread is not None:
                metrics[f"{field}_mean"] = spread.mean
                if spread.sd is not None:
                    metrics[f"{field}_sd"] = spread.sd
        return {**metrics, "trainable_params": float(self._facts.trainable_params)}

    def _note(self) -> str:
        num_views = self._facts.views["total"]
        measures = list(MEASURES)[: None if num_views > 1 else -1]
        heads = ["seed", "validation", "test, centre", f"test, {num_views} views"]
        heads = heads[: 1 + len(measures)]
        rows = [
            [str(r.config["seed"]), *(_percent(getattr(r, MEASURES[m])) for m in measures)]
            for r in self.records
        ]
        if len(rows) > 1:
            spreads = (spread_of(self._records, measure) for measure in measures)
            rows.append(["**mean**", *(_spread(spread) for spread in spreads)])
        lines = [heads, ["---:"] * len(heads), *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{self._facts.intro}\n\n{table}\n"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}%"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.mean:.1f}%" + (f" ± {spread.sd:.1f}" if spread.sd is not None else "")
