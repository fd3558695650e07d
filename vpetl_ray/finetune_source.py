"""What `finetune` is given, as a spec without an open value and one config of its space.

A spec file, a search's results (its folder or its front.json), the id of an MLflow run, or a file
with a config: all of them end as a `Chosen`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpetl_ray.errors import SpecError, VpetlError
from vpetl_ray.inference.find import read_front_document
from vpetl_ray.models.arch import Arch
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.results.front import knee
from vpetl_ray.results.records import read_trials
from vpetl_ray.results.seed_files import CONFIG_FILE
from vpetl_ray.results.tracking import set_client_defaults
from vpetl_ray.results_folder import SPEC_FILE
from vpetl_ray.spec.document import read_document
from vpetl_ray.spec.dump import inline_yaml
from vpetl_ray.spec.load import load_spec
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.training.recipe import Recipe
from vpetl_ray.tuning.domains import Fixed, Scalar, Value, label
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.space import CLASSIFIER, OPTIMIZER, Space, TrialConfig
from vpetl_ray.tuning.start import middle
from vpetl_ray.tuning.stored_values import values_from_columns

FRONT_FILE = "front.json"
TRIALS_FILE = "trials.parquet"
WORDS = ("best", "knee", "smallest")
"""What `--trial` may say instead of an id."""

_RUN_ID = re.compile(r"(?:runs:/)?([0-9a-f]{32})/?")
_CONFIG_KEYS = ("methods", "train_classifier")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was typed."""

    source: str
    """The first argument."""
    overrides: tuple[str, ...] = ()
    """`key.path=value` each."""
    trial: str | None = None
    """An id, or one of `WORDS`."""
    spec: Path | None = None
    """Goes with a config file."""
    tracking_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is to be trained."""

    spec: SearchSpec
    """Data, backbone, training and resources; `petl`, too, where the config has come from it."""
    config: TrialConfig
    columns: Mapping[str, Scalar]
    """The config as a flat row, for tables and MLflow."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Where the config comes from: `spec`, `config`, or `search`, `trial` and `run`."""


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A trial to choose from."""

    id: str
    trainable_params: int
    top1: float
    columns: Mapping[str, Scalar]
    run_id: str | None = None


def choose(request: Request) -> Chosen:
    """Find out what is to be trained.

    Raises:
        VpetlError: it cannot be found, is not whole, or contradicts itself.
    """
    path = Path(request.source).expanduser()
    run_id = _RUN_ID.fullmatch(request.source)
    if path.is_dir():
        return _from_folder(path, request)
    if path.is_file():
        return _from_file(path, request)
    if run_id:
        return _from_mlflow(run_id.group(1), request)
    raise SpecError(
        f"{request.source}: is neither a file, nor a search's results folder, nor the id of an "
        "MLflow run (32 hexadecimal digits)"
    )


def _from_folder(folder: Path, request: Request) -> Chosen:
    if not (folder / SPEC_FILE).is_file():
        raise SpecError(f"{folder}: is no results folder, it has no {SPEC_FILE}")
    if (folder / FRONT_FILE).is_file():
        _refuse(request, "spec")
        return _from_front(folder, request)
    if (folder / CONFIG_FILE).is_file():  # of an earlier finetune
        return _from_config(folder / CONFIG_FILE, folder / SPEC_FILE, request)
    raise SpecError(f"{folder}: has no {FRONT_FILE}; no trial of this search was completed")


def _from_file(path: Path, request: Request) -> Chosen:
    data = _read_mapping(path)
    if "front" in data:
        _refuse(request, "spec")
        if not (path.parent / SPEC_FILE).is_file():
            raise SpecError(f"{path}: the search's {SPEC_FILE} must lie beside it")
        return _from_front(path.parent, request)
    if not any(key in data for key in _CONFIG_KEYS):
        _refuse(request, "spec", "trial")
        return _from_values(path, {}, request, {"spec": path.name})
    if request.spec is None:
        raise SpecError(
            f"{path}: is a config; --spec must name the search space file that says data, "
            "backbone and training"
        )
    return _from_config(path, request.spec, request)


def _from_front(folder: Path, request: Request) -> Chosen:
    document = read_front_document(folder)
    members = [
        _Member(
            id=entry["id"],
            trainable_params=entry["trainable_params"],
            top1=entry["top1"],
            columns=entry["config"],
        )
        for entry in document["front"]
    ]
    if not members:
        raise SpecError(f"{folder / FRONT_FILE}: the front is empty")
    wanted = request.trial or WORDS[0]
    if wanted in WORDS:
        member = _pick(members, wanted)
    else:
        member = next((m for m in members if m.id == wanted), None) or _trial(folder, wanted)
    search = str(document.get("name", folder.name))
    return _from_values(
        folder / SPEC_FILE,
        member.columns,
        request,
        {"search": search, "trial": member.id},
        f"name={search}-{member.id}",
    )


def _trial(folder: Path, wanted: str) -> _Member:
    """Find a trial that is not on the front."""
    path = folder / TRIALS_FILE
    records = {record.id: record for record in read_trials(path)} if path.is_file() else {}
    record = records.get(wanted)
    if record is None:
        last = f"; it has {min(records)} to {max(records)}" if records else ""
        raise SpecError(
            f"--trial: there is no trial {wanted} in {folder}{last}, and {', '.join(WORDS)}"
        )
    columns = {path: value for path, value in record.config.items() if value is not None}
    return _Member(
        id=wanted,
        trainable_params=record.trainable_params,
        top1=record.top1 or 0.0,
        columns=columns,
    )


def _pick(members: Sequence[_Member], word: str) -> _Member:
    if word == "smallest":
        return min(members, key=lambda member: member.trainable_params)
    if word == "knee":
        params = [member.trainable_params for member in members]
        return members[knee(params, [member.top1 for member in members])]
    return max(members, key=lambda member: member.top1)


def _from_mlflow(run_id: str, request: Request) -> Chosen:
    _refuse(request, "spec")
    uri = request.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise SpecError(
            f"{run_id}: say where this MLflow run is, by --tracking-uri or MLFLOW_TRACKING_URI "
            "(of a search without either: sqlite:///runs/NAME/mlflow.db)"
        )
    set_client_defaults()
    from vpetl_ray.results.mlflow_reader import read_run  # noqa: PLC0415 - takes seconds

    is_word = request.trial in WORDS
    with tempfile.TemporaryDirectory(prefix="vpetl_spec_") as scratch:
        search = read_run(uri, run_id, None if is_word else request.trial, Path(scratch))
        trial = search.trial
        members = [
            _Member(
                id=run.trial_id,
                trainable_params=run.trainable_params,
                top1=run.top1 or 0.0,
                columns=run.params,
                run_id=run.run_id,
            )
            for run in ((trial,) if trial else search.front)
        ]
        if not members:
            raise SpecError(f"{run_id}: no trial of the search {search.name} is on a front")
        member = _pick(members, request.trial if is_word and request.trial else WORDS[0])
        return _from_values(
            search.spec_file,
            member.columns,
            request,
            {"search": search.name, "trial": member.id, "run": member.run_id or run_id},
            f"name={search.name}-{member.id}",
            "tracking.uri=auto",  # the environment's, if --tracking-uri does not say it
        )


def _from_values(
    path: Path,
    columns: Mapping[str, Scalar],
    request: Request,
    origin: Mapping[str, str],
    *defaults: str,
) -> Chosen:
    """Take a spec whose searched values are those of `columns`."""
    overrides = [*defaults, *request.overrides, *_tracking(request)]
    space = _space(load_spec(path, overrides))
    values, missing = values_from_columns(space, columns)
    if missing:
        raise SpecError(
            f"{request.source}: leaves open {', '.join(missing)}; fix each with --set key=value, "
            "or give a trial of a search, or a config file with --spec"
        )
    config = space.build(values)
    spec = load_spec(path, [*overrides, *_fixed_petl(space, values), *_fixed_rest(config.recipe)])
    row = {p: value for p, value in space.config_columns(values).items() if value is not None}
    return Chosen(spec=spec, config=config, columns=row, origin=origin)


def _from_config(path: Path, spec_path: Path, request: Request) -> Chosen:
    """Take the PETL part from a file of its own, everything else from a spec."""
    _refuse(request, "trial")
    overrides = [*request.overrides, *_tracking(request)]
    loaded = load_spec(spec_path, overrides)
    space = _space(loaded)
    petl = _read_petl(path, space.arch)
    optimizer = space.domains[OPTIMIZER]
    used = space.training_domains(
        is_probe=not petl.methods,
        optimizer=optimizer.value if isinstance(optimizer, Fixed) else None,
    )
    missing = [name for name, domain in used.items() if not isinstance(domain, Fixed)]
    if missing:
        raise SpecError(
            f"{spec_path}: leaves open {', '.join(missing)}; fix each with --set key=value"
        )
    domains = {p: d for p, d in space.domains.items() if p.startswith("training.")}
    values = {p: d.value if isinstance(d, Fixed) else middle(d) for p, d in domains.items()}
    recipe = Recipe.from_dict({p.removeprefix("training."): v for p, v in values.items()})
    columns = {
        **petl_columns(petl),
        **{p: written for p in used if (written := label(values[p])) is not None},
    }
    return Chosen(
        spec=load_spec(spec_path, [*overrides, *_fixed_rest(recipe)]),
        config=TrialConfig(petl=petl, recipe=recipe, values={}, key=petl.key(space.arch)),
        columns=columns,
        origin={"config": path.name},
    )


def petl_columns(petl: PetlConfig) -> dict[str, Scalar]:
    """Write a config as a flat row, as `Space.config_columns` does.

    Where a method is there more than once, the second is `petl.patt-2.d_bottle` and so on.
    """
    columns: dict[str, Scalar] = {}
    seen: Counter[str] = Counter()
    for method in petl.to_dict()["methods"]:
        name = method.pop("name")
        seen[name] += 1
        path = f"petl.{name}" + (f"-{seen[name]}" if seen[name] > 1 else "")
        columns[f"{path}.enabled"] = True
        for key, value in method.items():
            if value is not None:
                columns[f"{path}.{key}"] = label(tuple(value) if isinstance(value, list) else value)
    return {**columns, CLASSIFIER: petl.train_classifier}


def _read_petl(path: Path, arch: Arch) -> PetlConfig:
    try:
        petl = PetlConfig.from_dict(_read_mapping(path))
        petl.check(arch)
    except VpetlError as error:
        raise SpecError(f"{path}: {error}") from error
    if not petl.canonical(arch).methods and not petl.train_classifier:
        raise SpecError(f"{path}: every method is off and the classifier is frozen")
    return petl.canonical(arch)


def _fixed_petl(space: Space, values: Values) -> list[str]:
    """Write the PETL part of a config as overrides; methods that are off are left out."""
    stages = range(1, space.arch.num_stages + 1)
    overrides = [f"{CLASSIFIER}={inline_yaml(values[CLASSIFIER])}"]
    for name, method in space.methods.items():
        if not space.is_on(name, values):
            overrides.append(f"petl.{name}=null")
            continue
        for key in method.per_stage:
            own = [_of_stage(space, values, f"petl.{name}.{key}.stage{s}") for s in stages]
            overrides.append(f"petl.{name}.{key}={inline_yaml({'per_stage': own})}")
        overrides += [
            f"{path}={inline_yaml(value)}"
            for path, value in values.items()
            if path.startswith(f"petl.{name}.") and path.count(".") == 2
        ]
    return overrides


def _of_stage(space: Space, values: Values, path: str) -> Value:
    """Give a stage's value; any where the method is not in that stage and none was asked for."""
    return values[path] if path in values else middle(space.domains[path])


def _fixed_rest(recipe: Recipe) -> list[str]:
    """Write the training as overrides, and take out what is about searching."""
    training = [f"training.{key}={inline_yaml(v)}" for key, v in recipe.to_dict().items()]
    return [*training, "search={}", "budget={}"]


def _space(spec: SearchSpec) -> Space:
    # The number of classes matters to counts alone, and is not known before the data is opened.
    return spec.space(spec.data.num_classes or 2)


def _tracking(request: Request) -> list[str]:
    uri = request.tracking_uri
    return [f"tracking.uri={inline_yaml(uri)}"] if uri is not None else []


def _refuse(request: Request, *options: str) -> None:
    goes_with = {"spec": "a config file", "trial": "a search's results folder or run"}
    for option in options:
        if getattr(request, option) is not None:
            raise SpecError(
                f"--{option}: goes with {goes_with[option]} alone, {request.source} is none"
            )


def _read_mapping(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return _read_json(path)
    return read_document(path.read_bytes(), str(path)).data


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise SpecError(f"{path}: must be a JSON object")
    return data
