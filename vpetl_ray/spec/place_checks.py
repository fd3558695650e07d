"""What must be right about stages and blocks, and about values of every stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vpetl_ray.models.arch import Arch
from vpetl_ray.spec.by_arch import ALL, AnyOfAll, PerStage, every
from vpetl_ray.spec.document import Path as KeyPath
from vpetl_ray.spec.kinds import show
from vpetl_ray.tuning.domains import Choice, Domain, Fixed, Scalar, Subset
from vpetl_ray.tuning.method_space import METHOD_FIELDS

if TYPE_CHECKING:
    from vpetl_ray.spec.load import Findings


def check_places(arch: Arch, found: Findings) -> None:
    """Every stage and block that could be read must exist, and one of the two be fixed."""
    _check_per_stage(arch, found)
    for name in METHOD_FIELDS:
        for field in ("stages", "blocks"):
            _check_numbers(("petl", name, field), arch, found)
        stages, blocks = (found.values.get(("petl", name, f)) for f in ("stages", "blocks"))
        is_searched = not isinstance(stages, Fixed | None)
        if is_searched and blocks not in (None, Fixed(value=ALL)):
            found.fail(("petl", name, "blocks"))
            text = f"petl.{name}.stages is searched; leave one of the two out"
            found.add(("petl", name, "blocks"), text)


def _check_numbers(path: KeyPath, arch: Arch, found: Findings) -> None:
    field = str(path[-1])
    numbers = every(field, arch)
    domain = found.values.get(path)
    for at, number in items_of(domain):
        if isinstance(number, int) and number > len(numbers):
            found.fail(path)
            known = ", ".join(map(str, numbers))
            text = f"{number} is not one of {known} (the stages of {arch.name})"
            if field == "blocks":
                text = f"block {number} does not exist; {arch.name} has blocks 1 to {len(numbers)}"
            found.add(path, text, at)
    if isinstance(domain, Choice) and domain.contains(ALL) and domain.contains(numbers):
        found.fail(path)
        found.add(path, f"'all' and {show(list(numbers))} are the same {field}")
    if isinstance(domain, AnyOfAll) and domain.min_size > len(numbers):
        found.fail(path)
        text = f"min must be at most {len(numbers)}, the number of {field} of {arch.name}"
        found.add(path, f"{text}, got {domain.min_size}", ("min",))


def _check_per_stage(arch: Arch, found: Findings) -> None:
    """A list of values or domains must have one for each stage."""
    for path, value in list(found.values.items()):
        if not isinstance(value, PerStage) or len(value.of_stages(arch)) == arch.num_stages:
            continue
        found.fail(path)
        text = f"per_stage must list {arch.num_stages}, one for each stage of {arch.name}"
        found.add(path, f"{text}, got {len(value.domains)}", ("per_stage",))


def items_of(domain: Domain | None) -> Iterator[tuple[tuple[str | int, ...], Scalar]]:
    """Yield every item of any member that is a list, with where it stands."""
    match domain:
        case Fixed(value=tuple() as items):
            yield from (((), item) for item in items)
        case Subset(items=items):
            yield from ((("subset", i), item) for i, item in enumerate(items))
        case Choice(options=options):
            for i, option in enumerate(options):
                if isinstance(option, tuple):
                    yield from ((("choice", i), item) for item in option)
