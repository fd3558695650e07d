"""What must be right about several values together.

Each check runs if what it needs could be read, whatever else is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vpetl_ray.data.catalogue import get_source
from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.demo_motion import TARGET_MOTIONS
from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import Arch, get_arch
from vpetl_ray.petl.methods.position import kinds_of
from vpetl_ray.petl.methods.prompt import max_overlap
from vpetl_ray.results.objectives import costs_of
from vpetl_ray.spec.by_arch import ALL, AnyOfAll, PerStage, SpecDomain
from vpetl_ray.spec.kinds import Wrong, nearest, show
from vpetl_ray.spec.leaves import Given
from vpetl_ray.spec.petl_sections import PetlSection
from vpetl_ray.spec.place_checks import check_places, items_of
from vpetl_ray.spec.search_spec import DEFAULT_TRIALS, budget_mistake, spaced
from vpetl_ray.spec.section import Section, section_of
from vpetl_ray.spec.sections import DEMO_WEIGHTS, BudgetSection, TrainingSection
from vpetl_ray.spec.space_tree import flat_entry, space_tree, start_mistake
from vpetl_ray.spec.start_list import entry_name
from vpetl_ray.tuning.domains import (
    Choice,
    Domain,
    Fixed,
    FloatRange,
    IntRange,
    Subset,
)
from vpetl_ray.tuning.samplers import LIST, QUEUED, SAMPLERS, TWO_OBJECTIVES
from vpetl_ray.tuning.space import GRID_POINTS, Space
from vpetl_ray.tuning.space_size import num_structures, smallest_values

if TYPE_CHECKING:
    from vpetl_ray.spec.load import Findings

DEMO_ARCH = "swin3d_nano"
MAX_GRID = 10_000
_PARTS: Mapping[str, type[Section]] = {
    name: section
    for name, info in PetlSection.model_fields.items()
    if (section := section_of(info)) is not None
}
_METHODS = tuple(name for name in _PARTS if name != "classifier")
_ARCH = ("backbone", "arch")
_BATCH = ("training", "batch_size")
_WORKERS = ("resources", "workers_per_group")
_CLASSES = ("data", "num_classes")
_START = ("search", "start")
# Parts of a space that cost least, in place of values that could not be read.
_LEAST: Mapping[str, SpecDomain] = {
    "enabled": Choice(options=(False, True)),
    "targets": Subset(items=("q", "k", "v")),
    "kinds": Subset(items=("norm1",)),
    "blocks": AnyOfAll(),
    "d_bottle": Fixed(value=1),
    "d_middle": Fixed(value=1),
    "rank": Fixed(value=1),
    "num_tokens": Fixed(value=1),
    "train": Choice(options=(False, True)),
}


def check_together(found: Findings) -> None:
    """Add what is wrong with values that fit each one for itself."""
    _check_data(found)
    _check_training(found)
    _check_resources(found)
    _check_search(found)
    if not found.have(_ARCH):
        return
    arch = get_arch(found.values[_ARCH])
    _check_weights(arch, found)
    check_places(arch, found)
    _check_kinds(arch, found)
    _check_prompts(arch, found)
    _check_start(arch, found)
    _check_space(arch, found)


def _check_data(found: Findings) -> None:
    data = found.section("data")
    if "source" not in data:
        return
    is_demo = data["source"] == "demo"
    if is_demo:
        num_classes = len(TARGET_MOTIONS)
        facts = {"path": "makes its own videos", "num_classes": f"has {num_classes} classes"}
        for key, fact in facts.items():
            if data.get(key) not in (None, num_classes):
                found.add(("data", key), f"the demo {fact}; leave it out, got {show(data[key])}")
        found.values[_CLASSES] = num_classes
    elif data.get("path", "") is None:
        needed = get_source(data["source"]).path_is
        found.add(("data", "path"), f"is missing; the source {data['source']!r} needs {needed}")
    _resolve_data(data, found)


def _resolve_data(data: dict[str, Any], found: Findings) -> None:
    """Fill in what depends on the source; of the segments also the command has a say."""
    given = {key: value for key, value in data.items() if key != "num_classes"}
    try:
        config = DataConfig(**given)
        clip, view = config.clip_spec(), config.view_spec()
    except VpetlError as error:
        key, _, text = str(error).partition(": ")
        found.add(tuple(key.split(".")), text)
        return
    for key in data:
        for part in (clip, view):
            if hasattr(part, key) and key not in ("test_segments", "views"):
                found.values["data", key] = getattr(part, key)


def _check_training(found: Findings) -> None:
    if found.have(_BATCH, _WORKERS):
        least = min(_numbers(found.values[_BATCH]))
        workers = found.values[_WORKERS]
        if least < workers:
            text = f"must be at least {workers}, one clip for each of resources.workers_per_group"
            found.add(_BATCH, f"{text}, got {show(least)}")
    warmup, epochs = ("training", "warmup_epochs"), ("training", "epochs")
    if found.have(warmup, epochs):
        longest, fewest = max(_numbers(found.values[warmup])), min(_numbers(found.values[epochs]))
        if longest >= fewest and longest > 0:
            found.fail(warmup)
            found.add(warmup, f"must be below training.epochs ({fewest:g}), got {longest:g}")


def _check_resources(found: Findings) -> None:
    resources = found.section("resources")
    gpus, workers = resources.get("gpus_per_worker"), resources.get("workers_per_group")
    if isinstance(gpus, float) and 0 < gpus < 1 and isinstance(workers, int) and workers > 1:
        found.add(
            ("resources", "gpus_per_worker"),
            "a share of a GPU is for groups of one worker (the workers of a group need a GPU "
            f"each); got {show(gpus)} with workers_per_group {workers}",
        )


def _check_search(found: Findings) -> None:
    """Fill in the trials of a search that has no end of its own; check what is said of a list."""
    _check_halving(found)
    sampler, trials, only = (("search", key) for key in ("sampler", "trials", "only"))
    if not found.have(sampler):
        return
    is_list = found.values[sampler] == LIST
    _check_objectives(found.values[sampler], found)
    if found.values[sampler] not in QUEUED and found.values.get(trials, 0) is None:
        found.values[trials] = DEFAULT_TRIALS
    if is_list and not found.is_given(_START):
        found.add(_START, "is missing; the configs of a list are those named here")
    if not found.have(_START):
        return
    if is_list and not found.values[_START]:
        found.add(_START, "is empty; the configs of a list are those named here")
    if found.values.get(only) is None:
        return
    if not is_list:
        found.add(only, "is for search.sampler: list alone; leave it out")
    names = [entry_name(entry) for entry in found.values[_START]]
    for i, name in enumerate(found.values[only]):
        if name not in names:
            text = f"{show(name)} is not in search.start{nearest(name, names)}"
            found.add(only, f"{text}; it has {', '.join(names)}", (i,))


def _check_objectives(sampler: str, found: Findings) -> None:
    if sampler in TWO_OBJECTIVES and costs_of(found.values.get(("objectives",), ())):
        others = ", ".join(name for name in SAMPLERS if name not in TWO_OBJECTIVES)
        found.add(
            ("search", "sampler"),
            f"{sampler} is for top1 and trainable_params alone; "
            f"with further objectives use one of {others}",
        )


def _check_halving(found: Findings) -> None:
    rungs, epochs = ("search", "halving", "rungs"), ("training", "epochs")
    if not found.have(rungs, epochs) or found.values[rungs] == "auto":
        return
    fewest = min(_numbers(found.values[epochs]))
    if not found.values[rungs]:
        found.add(rungs, "is empty; name epochs, or leave halving out")
    elif max(found.values[rungs]) >= fewest:
        text = f"must be below training.epochs ({fewest:g})"
        found.add(rungs, f"{text}, got {show(max(found.values[rungs]))}")


def _check_weights(arch: Arch, found: Findings) -> None:
    path = ("backbone", "weights")
    if found.values.get(path) == DEMO_WEIGHTS and arch.name != DEMO_ARCH:
        text = f"the demo's weights are for {DEMO_ARCH}; give the checkpoint of {arch.name} by path"
        found.add(path, text)


def _check_kinds(arch: Arch, found: Findings) -> None:
    """Every kind of the backbone's own parameters that could be read must exist."""
    path = ("petl", "position", "kinds")
    known = kinds_of(arch)
    for at, kind in items_of(found.values.get(path)):
        if kind not in known:
            found.fail(path)
            text = f"{show(kind)} is not one of {', '.join(known)} (what {arch.name} has)"
            found.add(path, text, at)


def _check_prompts(arch: Arch, found: Findings) -> None:
    """Prompts that overlap a window must leave some of it."""
    tokens, way = ("petl", "prompt", "num_tokens"), ("petl", "prompt", "way")
    if not found.have(tokens, way) or not found.values[way].contains("overlap"):
        return
    searched = found.values[tokens]
    domains = searched.domains if isinstance(searched, PerStage) else [searched]
    most, largest = max_overlap(arch), max(n for domain in domains for n in _numbers(domain))
    if largest > most:
        found.fail(tokens)
        text = (
            f"must be at most {most} to overlap a window of {arch.name}, got {show(int(largest))}"
        )
        found.add(tokens, text)


def _check_start(arch: Arch, found: Findings) -> None:
    """Every value of the user's own start configs must be a member of its domain."""
    path = _START
    names: set[str] = set()
    for i, entry in enumerate(found.values.get(path, ())):
        if isinstance(entry, str):
            continue
        if entry["name"] in names:
            found.add(path, f"two start configs are called {show(entry['name'])}", (i,))
        names.add(entry["name"])
        for keys, value in flat_entry(entry):
            text = _start_mistake(keys, value, arch, found)
            if text:
                found.add(path, f"{'.'.join(keys)}: {text}", (i, *keys))


def _start_mistake(keys: tuple[str, ...], value: object, arch: Arch, found: Findings) -> str | None:
    marker = _marker(keys)
    if marker is None:
        return "there is no such key"
    if keys in found.failed:
        return None
    if keys not in found.values:
        return f"this space has no {keys[1]}"
    try:
        given = marker.read(value) if isinstance(value, dict) else marker.kind.read(value)
    except Wrong as wrong:
        return str(wrong)
    return start_mistake(value, given, keys[-1], found.values[keys], arch)


def _marker(keys: tuple[str, ...]) -> Given | None:
    model: type[Section] = TrainingSection
    if keys[0] == "petl":
        if len(keys) != 3:
            return None
        if keys[1] not in _PARTS:
            return None
        model = _PARTS[keys[1]]
    elif len(keys) != 2:
        return None
    info = model.model_fields.get(keys[-1])
    entries = info.metadata if info else ()
    return next((entry for entry in entries if isinstance(entry, Given)), None)


def _check_space(arch: Arch, found: Findings) -> None:
    num_classes = found.values.get(_CLASSES)
    space = Space(arch=arch, num_classes=num_classes or 2, tree=_least_tree(arch, found))
    try:
        smallest_values(space)
    except ValueError:
        found.add(("petl",), "nothing is trained: no method is on and the classifier is frozen")
        return
    budget = ("budget", "trainable_params")
    if found.have(budget) and num_classes is not None:
        section = BudgetSection.model_construct(trainable_params=found.values[budget])
        text = budget_mistake(section, space)
        if text:
            found.add(budget, text)
    if found.values.get(("search", "sampler")) == "grid":
        num_continuous = sum(domain.size is None for domain in space.domains.values())
        num_configs = num_structures(space) * GRID_POINTS**num_continuous
        if num_configs > MAX_GRID:
            text = f"a grid of this space has {spaced(num_configs)} configs, more than"
            found.add(("search", "sampler"), f"{text} {spaced(MAX_GRID)}; use random")


def _least_tree(arch: Arch, found: Findings) -> dict[str, Domain]:
    """Take the least that could be meant in place of what could not be read."""
    methods: dict[str, Section | None] = {}
    for name, model in _PARTS.items():
        fields = found.section("petl", name)
        for path in found.failed:
            if path[:2] == ("petl", name) and len(path) == 3:
                key = str(path[2])
                fields[key] = _LEAST.get(key, model.model_fields[key].default)
        if {("petl", name, "stages"), ("petl", name, "blocks")} & found.failed:
            # What is right of the two may not fit to what was meant.
            one, few = Fixed(value=(1,)), AnyOfAll()
            by_blocks = fields.get("blocks") not in (None, Fixed(value=ALL))
            places = {"stages": Fixed(value=ALL), "blocks": few} if by_blocks else {"stages": one}
            fields.update(places)
        methods[name] = model.model_construct(**fields) if fields else None
    petl = PetlSection.model_construct(**methods)  # type: ignore[arg-type]
    training = {**found.section("training")}
    if {("training", "epochs"), ("training", "warmup_epochs")} & found.failed:
        # They do not fit together, or may not.
        training = {k: v for k, v in training.items() if k not in {"epochs", "warmup_epochs"}}
    for required in ("learning_rate", "epochs", "batch_size"):
        training.setdefault(required, Fixed(value=1))
    return space_tree(petl, TrainingSection.model_construct(**training), arch)


def _numbers(domain: Domain) -> list[float]:
    """Return the ends of a range, or every number of a choice."""
    if isinstance(domain, IntRange | FloatRange):
        return [domain.low, domain.high]
    return [float(member) for member in domain.members()]  # type: ignore[arg-type]
