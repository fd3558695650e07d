"""The calls to MLflow: one parent run a search, one child run a trial.

Everything here may be called again after a failure without doubling anything: runs are found by
their tags before they are made, metrics carry times that follow from the record, and a child that
already holds a record is recognised by the record's digest.

Importing this module imports MLflow, which takes seconds: only the writer thread does.
"""

import contextlib
import dataclasses
import getpass
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunTag

from vpetl_ray.addresses import redact
from vpetl_ray.results.front import ppt
from vpetl_ray.results.labels import trial_label
from vpetl_ray.results.mlflow_query import tag_is
from vpetl_ray.results.mlflow_store import open_store
from vpetl_ray.results.mlflow_views import TRAINING_PAGES, search_views, seed_views
from vpetl_ray.results.records import Scalar, TrialRecord, TrialState
from vpetl_ray.results.registration import Registration
from vpetl_ray.results.tracking_info import RunStatus, TrackingInfo

SEARCH_ID = "vpetl.search_id"
FINETUNE_ID = "vpetl.finetune_id"
TRIAL_ID = "vpetl.trial_id"
SEED_ID = "vpetl.seed_id"
PARETO = "pareto"
_ID_OF = {"search": SEARCH_ID, "finetune": FINETUNE_ID}
_RECORD_ID_OF = {"search": TRIAL_ID, "finetune": SEED_ID}
PARENT = "mlflow.parentRunId"
_DESCRIBED = "vpetl.described"
_DIGEST = "vpetl.digest"
_ADAPTER = "vpetl.adapter"
_NOTE = "mlflow.note.content"

# What kind of experiment this is, for the UIs that ask; others go by `TRAINING_PAGES`.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

_MAX_METRICS = 1000  # of one log_batch call, as are the next two
_MAX_PARAMS = 100
_MAX_PARAM_LENGTH = 500  # what every store takes
_MAX_TAG_LENGTH = 5000
_PAGE = 1000

_STATUS_OF = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.STOPPED: "FINISHED",
    TrialState.INFEASIBLE: "KILLED",
    TrialState.FAILED: "FAILED",
}


@dataclasses.dataclass
class _Child:
    run_id: str
    started_ms: int
    digest: str = ""
    pareto: bool = False
    has_adapter: bool = False


class MlflowWriter:
    """One connection to a tracking store. Belongs to one thread. Raises what MLflow raises."""

    def __init__(self, info: TrackingInfo) -> None:
        self._info = info
        self._client = open_store(info.uri, is_own=info.artifact_location is not None)
        self._is_described = False
        self._experiment_id = self._find_or_make_experiment()
        self.parent_run_id = self._find_or_make_parent()
        self._record_id = _RECORD_ID_OF[info.kind]
        make_views = search_views if info.kind == "search" else seed_views
        self._views = make_views(
            self._experiment_id, self.parent_run_id, info.columns, costs=info.costs
        )
        self._describe()
        self._children = dict(self._find_children())

    @property
    def page(self) -> str:
        """Where the UI shows the search's run, below the UI's own address."""
        return f"#/experiments/{self._experiment_id}/runs/{self.parent_run_id}?{TRAINING_PAGES}"

    def write_trial(self, record: TrialRecord, *, pareto: bool) -> None:
        """Make or complete the trial's run: params, curves, counts, state."""
        digest = _digest(record)
        child = self._children.get(record.id)
        if child is not None and child.digest == digest:
            return
        if child is None:
            child = self._make_child(record, pareto=pareto)
            self._children[record.id] = child
        self._client.set_terminated(
            child.run_id,
            _STATUS_OF[record.state],
            end_time=child.started_ms + round(1000 * record.seconds),
        )
        # The digest comes with the last of the batches: a run that has it has everything.
        self._log(
            child.run_id,
            metrics=list(_metrics(record, child.started_ms)),
            params={path: value for path, value in record.config.items() if value is not None},
            tags={**_trial_tags(record), _DIGEST: digest},
        )
        child.digest = digest

    def write_pareto(self, front: Sequence[str]) -> None:
        """Make the tag `pareto` say who is on the front now; only what changed is written."""
        on_front = set(front)
        for trial_id, child in self._children.items():
            pareto = trial_id in on_front
            if pareto != child.pareto:
                self._client.set_tag(child.run_id, PARETO, _word(pareto))
                child.pareto = pareto

    def write_adapter(self, trial_id: str, path: Path) -> None:
        """Upload a trial's adapter weights, once."""
        child = self._children.get(trial_id)
        if child is not None and not child.has_adapter:
            self._client.log_artifact(child.run_id, str(path))
            self._client.set_tag(child.run_id, _ADAPTER, path.name)
            child.has_adapter = True

    def write_registration(self, registration: Registration) -> None:
        """Make the front a registered model; what is there already stays as it is."""
        # Here: MLflow's model format takes a second more, and a search needs it at its end alone.
        from vpetl_ray.results.mlflow_registry import register  # noqa: PLC0415

        register(
            self._client,
            registration,
            experiment_id=self._experiment_id,
            search_id=self._info.search_id,
            run_ids={trial: child.run_id for trial, child in self._children.items()},
        )

    def write_progress(
        self, metrics: Mapping[str, float], *, step: int, note: str, files: Sequence[Path]
    ) -> None:
        """Bring the parent run up to date: metrics of the search, description, front files."""
        now = _now_ms()
        self._log(
            self.parent_run_id,
            metrics=[Metric(key, value, now, step) for key, value in metrics.items()],
            tags={_NOTE: self._with_links(note)} if note else {},
        )
        for path in files:
            self._client.log_artifact(self.parent_run_id, str(path))

    def _with_links(self, note: str) -> str:
        """Say below a note's first paragraph where to click: the UI folds what comes later."""
        if self._info.only is not None:
            return note[:_MAX_TAG_LENGTH]
        links = " · ".join(f"[{view.title}]({view.link})" for view in self._views)
        first, _, rest = note.partition("\n\n")
        return f"{first}\n\nOpen: {links}\n\n{rest}"[:_MAX_TAG_LENGTH]

    def close(self, status: RunStatus) -> None:
        """End the parent run."""
        self._client.set_terminated(self.parent_run_id, status)

    def _find_or_make_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._info.experiment)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise ValueError(
                    f"the experiment {self._info.experiment!r} is deleted: "
                    "restore it in MLflow or set another tracking.experiment"
                )
            return str(found.experiment_id)
        return self._client.create_experiment(
            self._info.experiment,
            artifact_location=self._info.artifact_location,
            tags=_EXPERIMENT_TAGS,
        )

    def _find_or_make_parent(self) -> str:
        info = self._info
        found = self._client.search_runs(
            [self._experiment_id],
            tag_is(_ID_OF[info.kind], info.search_id),
            max_results=1,
        )
        if found:
            run_id = str(found[0].info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            self._is_described = _DESCRIBED in found[0].data.tags
            return run_id
        run = self._client.create_run(
            self._experiment_id, run_name=info.name, tags=_parent_tags(info)
        )
        return str(run.info.run_id)

    def _describe(self) -> None:
        """Give the parent what does not change: spec, environment, settings, ready views."""
        if self._is_described:
            return
        info, run_id = self._info, self.parent_run_id
        self._client.log_text(run_id, redact(info.spec_text, info.uri), "spec.yaml")
        self._client.log_dict(run_id, dict(info.environment), "environment.json")
        for view in self._views if info.only is None else ():
            self._client.set_experiment_tag(self._experiment_id, *view.tag)
        self._log(run_id, params=info.settings, tags={_DESCRIBED: "true"})

    def _find_children(self) -> Iterator[tuple[str, _Child]]:
        if self._info.only is not None:
            yield self._info.only, _child_of(self._client.get_run(self.parent_run_id))
            return
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                tag_is(PARENT, self.parent_run_id),
                max_results=_PAGE,
                page_token=token,
            )
            for run in page:
                if self._record_id in run.data.tags:
                    yield run.data.tags[self._record_id], _child_of(run)
            token = page.token
            if not token:
                return

    def _make_child(self, record: TrialRecord, *, pareto: bool) -> _Child:
        started_ms = _now_ms() - round(1000 * record.seconds)
        tags = {
            **self._info.tags,
            PARENT: self.parent_run_id,
            self._record_id: record.id,
            "mlflow.user": _user(),
        }
        if self._info.kind == "search":
            tags[PARETO] = _word(pareto)
        run = self._client.create_run(
            self._experiment_id,
            start_time=started_ms,
            tags=tags,
            run_name=f"{record.id} {trial_label(record)}"[:250],
        )
        return _Child(run.info.run_id, started_ms, pareto=pareto)

    def _log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, Scalar | None] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        texts = [
            Param(key, _text(value)[:_MAX_PARAM_LENGTH])
            for key, value in (params or {}).items()
            if value is not None
        ]
        for first in range(_MAX_PARAMS, len(texts), _MAX_PARAMS):
            self._client.log_batch(run_id, params=texts[first : first + _MAX_PARAMS])
        # The last batch is kept below the limit on all entities of a call.
        room = _MAX_METRICS - _MAX_PARAMS - len(tags or {})
        for first in range(room, len(metrics), _MAX_METRICS):
            self._client.log_batch(run_id, metrics=metrics[first : first + _MAX_METRICS])
        self._client.log_batch(
            run_id,
            metrics=metrics[:room],
            params=texts[:_MAX_PARAMS],
            tags=[RunTag(key, value[:_MAX_TAG_LENGTH]) for key, value in (tags or {}).items()],
        )


def _parent_tags(info: TrackingInfo) -> dict[str, str]:
    tags = {f"env.{name}": value for name, value in info.environment.items()}
    if "git_commit" in info.environment:
        tags["mlflow.source.git.commit"] = info.environment["git_commit"]
    return {
        **tags,
        **info.tags,
        _ID_OF[info.kind]: info.search_id,
        _NOTE: info.description[:_MAX_TAG_LENGTH],
        "mlflow.user": _user(),
        "mlflow.source.name": f"vpetl_ray.{info.kind}",
        "mlflow.source.type": "LOCAL",
    }


def _trial_tags(record: TrialRecord) -> dict[str, str]:
    tags = {"state": record.state.value, "group": record.group, "reason": record.reason}
    return {key: str(value) for key, value in tags.items() if value is not None}


def _metrics(record: TrialRecord, started_ms: int) -> Iterator[Metric]:
    """Curves by epoch, then what the trial came to. Nothing that was not measured."""
    elapsed = 0.0
    last: dict[str, float] = {}
    for row in record.curve:
        elapsed += row.seconds
        values = {"top1": row.top1, "loss": row.loss, "train_loss": row.train_loss}
        for key, value in values.items():
            if value is not None:
                yield Metric(key, value, started_ms + round(1000 * elapsed), row.epoch)
                last[key] = value
    ended_ms = started_ms + round(1000 * record.seconds)
    # The record's own figures, where the curve does not end with them, come last: MLflow shows
    # the last value of a metric as the run's.
    for key, value in (("top1", record.top1), ("loss", record.loss)):
        if value is not None and last.get(key) != value:
            yield Metric(key, value, ended_ms + 1, max(record.epochs, 1))
    totals: dict[str, float | None] = {
        "trainable_params": record.trainable_params,
        "epochs": record.epochs,
        "seconds": record.seconds,
        "test_top1": record.test_top1,
        "test_top1_multi_view": record.test_top1_multi_view,
        **record.costs,
    }
    if record.state is TrialState.COMPLETE and record.top1 is not None:
        totals["ppt"] = ppt(record.top1, record.trainable_params)
    for key, total in totals.items():
        if total is not None:
            yield Metric(key, float(total), ended_ms, 0)


def _child_of(run: Run) -> _Child:
    tags: dict[str, str] = run.data.tags
    return _Child(
        run.info.run_id,
        run.info.start_time,
        digest=tags.get(_DIGEST, ""),
        pareto=tags.get(PARETO) == "true",
        has_adapter=_ADAPTER in tags,
    )


def _digest(record: TrialRecord) -> str:
    text = json.dumps(record.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _word(value: bool) -> str:
    return "true" if value else "false"


def _text(value: Scalar | None) -> str:
    return _word(value) if isinstance(value, bool) else str(value)


def _now_ms() -> int:
    return round(1000 * time.time())


def _user() -> str:
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown"
