"""Reads back what `mlflow_writer` wrote about a trial. Importing this module imports MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from vpetl_ray.addresses import redact
from vpetl_ray.errors import SpecError
from vpetl_ray.results.mlflow_query import tag_is
from vpetl_ray.results.mlflow_writer import PARENT, PARETO, SEARCH_ID, TRIAL_ID
from vpetl_ray.results.tracking import quiet_client

_PAGE = 1000
_SPEC_ARTIFACT = "spec.yaml"


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """A trial as MLflow has it."""

    run_id: str
    trial_id: str
    trainable_params: int
    top1: float | None
    """Percent on the validation split."""
    params: Mapping[str, str]
    """Path of the config to its text."""


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """A search as MLflow has it."""

    run_id: str
    name: str
    front: tuple[TrialRun, ...]
    trial: TrialRun | None
    """The one that was asked for."""
    spec_file: Path
    """A copy of its resolved spec."""


def read_run(uri: str, run_id: str, trial_id: str | None, folder: Path) -> SearchRun:
    """Read a search by the id of its run, or by that of one of its trials.

    Args:
        uri: of the tracking store.
        run_id: of a search's run or of a trial's.
        trial_id: the trial that is wanted of a search, such as `t0007`; None for none yet.
        folder: where to put the spec.

    Raises:
        SpecError: there is no such store, run or trial, or it was not written by a search.
    """
    quiet_client()
    with _explained(uri):
        client = MlflowClient(_checked(uri))
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise SpecError(f"there is no run {run_id} in {redact(uri, uri)}") from error
        return _read(client, run, trial_id, folder)


def _read(client: MlflowClient, run: Run, trial_id: str | None, folder: Path) -> SearchRun:
    tags = run.data.tags
    trial = _trial(run) if TRIAL_ID in tags and PARENT in tags else None
    if trial is not None and trial_id not in (None, trial.trial_id):
        raise SpecError(
            f"--trial: run {run.info.run_id} is trial {trial.trial_id} itself; leave --trial out"
        )
    parent = client.get_run(tags[PARENT]) if trial is not None else run
    if SEARCH_ID not in parent.data.tags:
        name = run.info.run_name or run.info.run_id
        raise SpecError(f"run {run.info.run_id} ({name}) is neither a search nor one of its trials")
    parent_id = parent.info.run_id
    if trial is None and trial_id is not None:
        trial = _find(client, parent, trial_id)
    front = (f"tags.{PARETO} = 'true'",) if trial is None else None
    return SearchRun(
        run_id=parent_id,
        name=parent.info.run_name or "search",
        front=tuple(_children(client, parent, *front)) if front else (),
        trial=trial,
        spec_file=Path(client.download_artifacts(parent_id, _SPEC_ARTIFACT, str(folder))),
    )


def _find(client: MlflowClient, parent: Run, trial_id: str) -> TrialRun:
    found = list(_children(client, parent, tag_is(TRIAL_ID, trial_id)))
    if not found:
        raise SpecError(f"--trial: the search of run {parent.info.run_id} has no trial {trial_id}")
    return found[0]


def _children(client: MlflowClient, parent: Run, condition: str) -> Iterator[TrialRun]:
    below = tag_is(PARENT, parent.info.run_id)
    token: str | None = None
    while True:
        page = client.search_runs(
            [parent.info.experiment_id],
            f"{below} and {condition}",
            max_results=_PAGE,
            page_token=token,
        )
        yield from map(_trial, page)
        token = page.token
        if not token:
            return


def _trial(run: Run) -> TrialRun:
    return TrialRun(
        run_id=run.info.run_id,
        trial_id=run.data.tags[TRIAL_ID],
        trainable_params=int(run.data.metrics.get("trainable_params", 0)),
        top1=run.data.metrics.get("top1"),
        params=dict(run.data.params),
    )


def _checked(uri: str) -> str:
    """Refuse a file that is not there: MLflow would make an empty store of it."""
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).is_file():
        raise SpecError(f"--tracking-uri: there is no file {path}")
    return uri


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except SpecError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SpecError(
            f"--tracking-uri: MLflow at {redact(uri, uri)} cannot be read: {redact(reason, uri)}"
        ) from error
