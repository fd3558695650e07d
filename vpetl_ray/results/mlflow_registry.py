"""Front members as versions of a registered model, in MLflow's own model format.

A version is a folder: the adapter, its card, and an `MLmodel` file whose python_function flavour
names `vpetl_ray.pyfunc_model`; nothing is pickled, no code is copied. Importing this module
imports MLflow.
"""

from __future__ import annotations

import base64
import contextlib
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema, TensorSpec

from vpetl_ray.data.demo import encode_mp4
from vpetl_ray.results.registration import Candidate, Registration

ADAPTER_NAME = "adapter.safetensors"
CARD_NAME = "MODEL_CARD.md"
SEARCH_TAG, RUN_TAG, PARETO = "vpetl.search_id", "vpetl.run_id", "pareto"
_LOADER = "vpetl_ray.pyfunc_model"
_REQUIREMENTS = ("torch", "torchvision", "pytorchvideo", "av", "safetensors", "pandas")
_MAX_DESCRIPTION = 5000


def register(
    client: MlflowClient,
    registration: Registration,
    *,
    experiment_id: str,
    search_id: str,
    run_ids: Mapping[str, str],
) -> None:
    """Make what is missing: the registered model, a version for each member, the aliases.

    Args:
        client: of the store.
        registration: the front.
        experiment_id: of the search.
        search_id: tells this search's versions from those of others with its name.
        run_ids: of the trials.
    """
    name = registration.name
    with contextlib.suppress(MlflowException):  # it is there already
        client.create_registered_model(name, description=_about(name))
    versions = _versions(client, name, search_id)
    with tempfile.TemporaryDirectory(prefix="vpetl_register_") as folder:
        for member in registration.members:
            if member.trial not in versions and member.trial in run_ids:
                run_id = run_ids[member.trial]
                versions[member.trial] = _add(
                    client, member, name, experiment_id, search_id, run_id, Path(folder)
                )
    on_front = {member.trial for member in registration.members}
    for trial, number in versions.items():
        if trial not in on_front:  # of a search that went on after it was interrupted
            client.set_model_version_tag(name, number, PARETO, "false")
    for alias, trial in registration.aliases.items():
        if trial in versions:
            client.set_registered_model_alias(name, alias, versions[trial])


def _about(name: str) -> str:
    return (
        f"The Pareto front of the search **{name}**: a version for each member, by parameters. "
        f"`python -m vpetl_ray.predict models:/{name}@knee VIDEO.mp4` uses one; set an alias of "
        "your own to name another."
    )


def _versions(client: MlflowClient, name: str, search_id: str) -> dict[str, str]:
    """Find this search's versions by trial."""
    found: dict[str, str] = {}
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        for entry in page:
            if entry.tags.get(SEARCH_TAG) == search_id:
                found[entry.tags["trial"]] = str(entry.version)
        token = page.token
        if not token:
            return found


def _add(
    client: MlflowClient,
    member: Candidate,
    name: str,
    experiment_id: str,
    search_id: str,
    run_id: str,
    scratch: Path,
) -> str:
    logged = client.create_logged_model(
        experiment_id, name=member.trial, source_run_id=run_id, tags=dict(member.tags)
    )
    folder = scratch / member.trial
    model = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        model_id=logged.model_id,
        signature=signature(),
        metadata=dict(member.tags),
    )
    write_model(folder, member, model)
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    made = client.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=run_id,
        model_id=logged.model_id,
        description=member.card[:_MAX_DESCRIPTION],
        tags={**member.tags, PARETO: "true", SEARCH_TAG: search_id, RUN_TAG: run_id},
    )
    return str(made.version)


def renew_card(client: MlflowClient, run_id: str, card: str) -> None:
    """Give the versions of a trial its new card, as their description and among their files."""
    for entry in client.search_model_versions(f"run_id = '{run_id}'"):
        client.update_model_version(entry.name, entry.version, card[:_MAX_DESCRIPTION])
        if entry.model_id:
            with tempfile.TemporaryDirectory(prefix="vpetl_card_") as folder:
                (Path(folder) / CARD_NAME).write_text(card, encoding="utf-8")
                client.log_model_artifacts(entry.model_id, folder)


def signature() -> ModelSignature:
    """What goes in and comes out: a video, or the path of one, a row; its label and classes."""
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.binary, "video", required=False),
        ColSpec(DataType.string, "path", required=False),
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Array(DataType.string), "labels"),
        ColSpec(Array(DataType.double), "probabilities"),
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def write_model(folder: Path, member: Candidate, model: Model) -> None:
    """Write the folder that MLflow calls a model."""
    folder.mkdir(parents=True)
    shutil.copyfile(member.adapter, folder / ADAPTER_NAME)
    (folder / CARD_NAME).write_text(member.card, encoding="utf-8")
    requirements = [f"{package}=={version(package)}" for package in _REQUIREMENTS]
    text = "\n".join(
        [*requirements, f"# and vpetl_ray {version('vpetl_ray')}, from its repository"]
    )
    (folder / "requirements.txt").write_text(text + "\n", encoding="utf-8")
    env = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(json.dumps(env), encoding="utf-8")
    model.add_flavor(
        "python_function",
        loader_module=_LOADER,
        data=".",
        python_version=platform.python_version(),
        env={"virtualenv": "python_env.yaml"},
    )
    model.saved_input_example_info = _write_example(folder)
    model.save(folder / "MLmodel")


def _write_example(folder: Path) -> dict[str, Any]:
    """Write a small real video as the example: what a request looks like."""
    split = {"columns": ["video"], "data": [[base64.b64encode(_example_video()).decode()]]}
    (folder / "input_example.json").write_text(json.dumps(split), encoding="utf-8")
    serving = json.dumps({"dataframe_split": split})
    (folder / "serving_input_example.json").write_text(serving, encoding="utf-8")
    return {
        "artifact_path": "input_example.json",
        "pandas_orient": "split",
        "serving_input_path": "serving_input_example.json",
        "type": "dataframe",
    }


def _example_video() -> bytes:
    """Draw a light square that moves to the right, for 16 frames."""
    frames_THWC = np.full((16, 32, 32, 3), 40, dtype=np.uint8)
    for t in range(16):
        frames_THWC[t, 12:20, t : t + 8] = 220
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.mp4"
        encode_mp4(frames_THWC, path)
        return path.read_bytes()
