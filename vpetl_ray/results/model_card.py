"""A card for a model: what it is, what it was trained on, how good it is, how to make it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.petl.adapter_file import read_header
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.results.labels import config_label
from vpetl_ray.results.records import TrialRecord

_LICENCE_OF_DEMO = (
    "as this package (Apache-2.0); the scans that it was pretrained on are CC BY 4.0, E. Alpaydin "
    "and C. Kaynak"
)
_LICENCE_OF_OTHERS = (
    "that of the weights' publisher, and of what they were trained on, holds; it is not known here "
    "and the weights are not part of this model unless it was bundled"
)
_MAX_TAG = 5000
_VERSIONS = ("vpetl_ray", "torch", "pytorchvideo", "av", "ray", "optuna", "python")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the cards of one search have in common."""

    search: str
    folder: str = ""
    """Where it is, as a person would type it; by default `runs/<search>`."""
    data: str
    """The kind of data set."""
    data_path: str | None
    num_clips: Mapping[str, int]
    """By split."""
    classes: tuple[str, ...]
    backbone: str
    backbone_params: int
    weights: str
    """`demo`, or the path of the file."""
    seed: int
    environment: Mapping[str, str] = field(default_factory=dict)
    """As from `environment_facts`."""


def model_card(
    facts: CardFacts,
    record: TrialRecord,
    adapter: Path,
    *,
    confirmed: Mapping[str, Any] | None = None,
) -> str:
    """Write the card of one trial, in Markdown.

    Args:
        facts: of its search.
        record: complete.
        adapter: its file, for the backbone's hash and the config.
        confirmed: its entry in confirmed.json, if it was trained again with other seeds.
    """
    header = read_header(adapter)
    # As code: MLflow takes a bare "@2" for somebody's name.
    title = f"# {facts.search} {record.id}: {record.name or f'`{config_label(record.config)}`'}"
    rows = [*_what(facts, record, header, adapter), *_how_good(facts, record, confirmed)]
    rows += [
        ("time", f"{record.seconds:.1f} s of training and validation, epochs: {record.epochs}"),
        ("seed", f"{facts.seed}" + (f"; confirmed with {_seeds(confirmed)}" if confirmed else "")),
        ("versions", ", ".join(_versions(facts.environment))),
    ]
    table = "\n".join(f"| {name} | {_cell(text)} |" for name, text in rows)
    parts = [
        title,
        f"| | |\n|---|---|\n{table}",
        f"Classes: {_listed(facts.classes)}",
        "## Parameters\n\n" + "\n".join(_counts(header)),
        "## Config\n\n```yaml\n" + "\n".join(_config(record)) + "\n```",
        "## Use\n\n```bash\n" + "\n".join(_use(facts, record)) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _what(
    facts: CardFacts, record: TrialRecord, header: Mapping[str, Any], adapter: Path
) -> Iterator[tuple[str, str]]:
    extra = header["extra"]
    where = f" ({facts.data_path})" if facts.data_path else ""
    clips = ", ".join(f"{count:,} {split}" for split, count in facts.num_clips.items())
    yield "data", f"{facts.data}{where}, {len(facts.classes)} classes; {clips} clips"
    if "clip" in extra:
        clip, size = extra["clip"], extra["size"]
        yield (
            "a clip",
            f"{clip['frames']} frames at {size} x {size}, {clip['sampling']} with stride "
            f"{clip['stride']}",
        )
    name = "the demo's own" if facts.weights == "demo" else f"the file {Path(facts.weights).name}"
    yield (
        "backbone",
        f"{facts.backbone}, frozen, {facts.backbone_params:,} parameters; weights: {name}, hash "
        f"{header['backbone']}",
    )
    licence = _LICENCE_OF_DEMO if facts.weights == "demo" else _LICENCE_OF_OTHERS
    yield "backbone's licence", licence
    yield "trainable parameters", f"{record.trainable_params:,}"
    yield "file", f"{adapter.name}, {adapter.stat().st_size / 1000:,.1f} kB"


def _how_good(
    facts: CardFacts, record: TrialRecord, confirmed: Mapping[str, Any] | None
) -> Iterator[tuple[str, str]]:
    yield "top-1, validation", f"{_percent(record.top1)}, by which it was selected (one seed)"
    test = (
        "not measured" if record.test_top1 is None else f"{_percent(record.test_top1)} (one seed)"
    )
    yield "top-1, test", test
    means = (confirmed or {}).get("mean", {})
    for split, key in (("validation", "val_top1"), ("test", "test_top1")):
        if means.get(key) is not None:
            spread = (confirmed or {}).get("sd", {}).get(key)
            told = _percent(means[key]) + (f" ± {spread:.1f}" if spread is not None else "")
            yield f"top-1, {split}, confirmed", f"{told} over {_seeds(confirmed)}"


def _seeds(confirmed: Mapping[str, Any] | None) -> str:
    seeds = [str(entry["seed"]) for entry in (confirmed or {}).get("seeds", ())]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(seeds)}"


def _counts(header: Mapping[str, Any]) -> list[str]:
    """Count the parts anew from the config."""
    try:
        arch = get_arch(header["arch"])
        count = count_trainable(PetlConfig.from_dict(header["config"]), arch, header["num_classes"])
    except VpetlError:
        return []  # an architecture of the caller's own
    rows = [f"| {part} | {number:,} |" for part, number in count.parts.items()]
    return ["| part | trainable |", "|---|---:|", *rows, f"| all | {count.total:,} |"]


def _config(record: TrialRecord) -> Iterator[str]:
    for path, value in record.config.items():
        if value is not None:
            yield f"{path}: {str(value).lower() if isinstance(value, bool) else value}"


def _use(facts: CardFacts, record: TrialRecord) -> Iterator[str]:
    folder = shlex.quote(facts.folder or f"runs/{facts.search}")
    yield "# classify videos"
    yield f"python -m vpetl_ray.predict {folder}@{record.id} VIDEO.mp4"
    yield "# train it again: the same seed on as many workers gives the same numbers"
    yield f"python -m vpetl_ray.finetune {folder} --trial {record.id} --seed {facts.seed}"
    if "git_commit" in facts.environment:
        yield f"# made at commit {facts.environment['git_commit']}"


def _versions(environment: Mapping[str, str]) -> Iterator[str]:
    for name in _VERSIONS:
        if name in environment:
            yield f"{name} {environment[name]}"


def _listed(names: tuple[str, ...], most: int = 60) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}%"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def version_tags(facts: CardFacts, record: TrialRecord) -> dict[str, str]:
    """Give the tags of the trial's version in MLflow's registry: few, the UI lists them all."""
    config = {path: value for path, value in record.config.items() if value is not None}
    tags: dict[str, object] = {
        "trial": record.id,
        "trainable_params": record.trainable_params,
        "top1": None if record.top1 is None else f"{record.top1:.2f}",
        "test_top1": None if record.test_top1 is None else f"{record.test_top1:.2f}",
        "config": record.name or config_label(record.config),
        **record.costs,
        "backbone": facts.backbone,
        "values": json.dumps(config),
    }
    return {name: str(value)[:_MAX_TAG] for name, value in tags.items() if value is not None}
