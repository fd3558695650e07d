"""Models as MLflow has them: found, chosen and downloaded. Importing this imports MLflow later."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vpetl_ray.addresses import redact
from vpetl_ray.errors import SpecError
from vpetl_ray.results.mlflow_query import tag_is
from vpetl_ray.results.pareto_choice import Member
from vpetl_ray.results.tracking import quiet_client, set_client_defaults
from vpetl_ray.results.tracking_uri import store_in

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_SEARCH = "vpetl.search_id"
ROLES = ("best", "knee", "smallest")
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))")
_RUN = re.compile(r"(?:runs:/)?(?P<id>[0-9a-f]{32})(?:@(?P<member>[^/]+))?/?")
_NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered model's version that a search has made."""

    name: str
    version: str
    source: str
    member: Member

    @property
    def uri(self) -> str:
        """What `vpetl_ray.load` takes."""
        return f"models:/{self.name}/{self.version}"


def find_store(source: str, name: str | None, tracking_uri: str | None) -> str:
    """Find the tracking store that a model or run is in.

    It is the one that is given, or MLFLOW_TRACKING_URI's, or that of a search in `runs/`.

    Args:
        source: for the message.
        name: of the registered model; None for a run.
        tracking_uri: given by the user.

    Raises:
        SpecError: nothing says where.

    """
    given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    runs = Path("runs")
    folders = [runs / name] if name else []
    folders += sorted(path.parent for path in runs.glob("*/mlflow.db"))
    for folder in dict.fromkeys(folders):
        uri = store_in(folder)[0]
        if (folder / "mlflow.db").is_file() and _has(uri, source):
            return uri
    raise SpecError(
        f"{source}: say in which MLflow store it is, by --tracking-uri or MLFLOW_TRACKING_URI "
        "(of a search without either: sqlite:///runs/NAME/mlflow.db); none of runs/*/mlflow.db "
        "here has it"
    )


def download(uri: str, source: str, folder: Path) -> Path:
    """Download what a model or run has; give the folder or the adapter file.

    Args:
        uri: of the tracking store.
        source: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or a run's id; of a search's run a
            member behind `@`.
        folder: where to.

    Raises:
        SpecError: it is not there, or holds no adapter.

    """
    with _client(uri) as client:
        if match := _MODEL.fullmatch(source):
            version = _version(client, match["name"], match["alias"], match["version"])
            if not version.source:
                raise SpecError(f"{source}: has no files")
            return _fetch(version.source, folder, uri)
        match = _RUN.fullmatch(source)
        if match is None:
            raise SpecError(f"{source}: is neither models:/NAME@ALIAS nor the id of a run")
        run = _with_adapter(client, match["id"], match["member"])
        name = run.data.tags["vpetl.adapter"]
        return _fetch(f"{run.info.artifact_uri}/{name}", folder, uri)


def list_versions(uri: str, name: str) -> list[Version]:
    """Give the front members that the latest search of this name registered, cheapest first.

    Raises:
        SpecError: the store has no such model.

    """
    with _client(uri) as client:
        found = [v for v in _all_versions(client, name) if _SEARCH in v.tags]
    if not found:
        raise SpecError(
            f"{name}: is no folder, and no search has registered models of this name in "
            f"{redact(uri, uri)}"
        )
    latest = max(found, key=lambda version: int(version.version)).tags[_SEARCH]
    mine = [v for v in found if v.tags[_SEARCH] == latest and v.tags["pareto"] == "true"]
    return sorted(map(_known, mine), key=lambda version: version.member.trainable_params)


def download_version(uri: str, version: Version, folder: Path) -> Path:
    """Download a version's files; give their folder.

    Raises:
        SpecError: they are not there.

    """
    with _client(uri):
        return _fetch(version.source, folder, uri)


def set_alias(uri: str, version: Version, alias: str) -> None:
    """Name a version; whichever had the name loses it."""
    with _client(uri) as client:
        client.set_registered_model_alias(version.name, alias, version.version)


def _known(version: ModelVersion) -> Version:
    tags = version.tags
    test = tags.get("test_top1")
    return Version(
        name=version.name,
        version=str(version.version),
        source=str(version.source),
        member=Member(
            trial=tags["trial"],
            trainable_params=int(tags["trainable_params"]),
            top1=float(tags["top1"]),
            test_top1=float(test) if test else None,
            config=tags["config"],
        ),
    )


def _all_versions(client: MlflowClient, name: str) -> Iterator[ModelVersion]:
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _version(
    client: MlflowClient, name: str, alias: str | None, version: str | None
) -> ModelVersion:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - takes seconds

    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        if version == "latest":
            return max(_all_versions(client, name), key=lambda found: int(found.version))
        return client.get_model_version(name, str(version))
    except (MlflowException, ValueError) as error:
        if getattr(error, "error_code", "RESOURCE_DOES_NOT_EXIST") not in _NOT_THERE:
            raise
        wanted = f"alias {alias}" if alias is not None else f"version {version}"
        raise SpecError(
            f"models:/{name}: has no {wanted}; {_what_there_is(client, name)}"
        ) from error


def _what_there_is(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        model = client.get_registered_model(name)
    except MlflowException:
        names = ", ".join(model.name for model in client.search_registered_models(max_results=5))
        return f"no model is registered as {name}" + (f", there is {names}" if names else "")
    versions = sorted(int(version.version) for version in _all_versions(client, name))
    span = f"{versions[0]} to {versions[-1]}" if versions else "none"
    return f"its aliases are {', '.join(sorted(model.aliases)) or 'none'}, its versions {span}"


def _with_adapter(client: MlflowClient, run_id: str, member: str | None) -> Run:
    """Find the run that holds the adapter: itself, or of a search's or several seeds' a child."""
    run = client.get_run(run_id)
    if "vpetl.adapter" in run.data.tags:
        return run
    below = tag_is("mlflow.parentRunId", run_id)
    children = [
        child
        for child in client.search_runs([run.info.experiment_id], below, max_results=1000)
        if "vpetl.adapter" in child.data.tags
    ]
    is_search = _SEARCH in run.data.tags
    if is_search:
        children = [child for child in children if child.data.tags.get("pareto") == "true"]
    if not children:
        raise SpecError(
            f"{run_id}: this run holds no trained tensors; only those of a front's members, and of "
            "finetune, do"
        )
    return _child(children, run_id, member, is_search=is_search)


def _child(children: Sequence[Run], run_id: str, member: str | None, *, is_search: bool) -> Run:
    key = "vpetl.trial_id" if is_search else "vpetl.seed_id"
    named = {child.data.tags[key]: child for child in children}
    if member is None or (is_search and member in ROLES):
        return _by_role(list(children), member or "best") if is_search else named[min(named)]
    if member not in named:
        raise SpecError(f"{run_id}@{member}: there is no such model; there are {', '.join(named)}")
    return named[member]


def _by_role(children: list[Run], role: str) -> Run:
    from vpetl_ray.results.front import knee  # noqa: PLC0415

    children.sort(key=lambda run: run.data.metrics["trainable_params"])
    top1 = [run.data.metrics["top1"] for run in children]
    params = [run.data.metrics["trainable_params"] for run in children]
    at = {"smallest": 0, "knee": knee(params, top1), "best": top1.index(max(top1))}
    return children[at[role]]


def _fetch(artifact_uri: str, folder: Path, uri: str) -> Path:
    from mlflow.artifacts import download_artifacts  # noqa: PLC0415

    return Path(
        download_artifacts(artifact_uri=artifact_uri, dst_path=str(folder), tracking_uri=uri)
    )


def _has(uri: str, source: str) -> bool:
    """Whether a store has a model or run."""
    try:
        with _client(uri) as client:
            if match := _MODEL.fullmatch(source):
                return bool(client.search_registered_models(f"name = '{match['name']}'"))
            if match := _RUN.fullmatch(source):
                client.get_run(match["id"])
                return True
            return bool(client.search_registered_models(f"name = '{source}'"))
    except SpecError:
        return False


@contextlib.contextmanager
def _client(uri: str) -> Iterator[MlflowClient]:
    """Give a client; what it raises becomes one sentence."""
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).is_file():
        raise SpecError(f"--tracking-uri: there is no file {path}")  # MLflow would make one
    set_client_defaults()
    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds

    quiet_client()
    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI"))
    except SpecError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SpecError(f"MLflow at {redact(uri, uri)}: {redact(reason, uri)}") from error
