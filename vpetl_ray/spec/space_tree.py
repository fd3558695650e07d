"""The spec's domains, and its start configs, as the flat paths of a space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vpetl_ray.models.arch import Arch
from vpetl_ray.spec.by_arch import PER_STAGE, PerStage, SpecDomain, resolved_fields, with_numbers
from vpetl_ray.spec.kinds import show
from vpetl_ray.spec.petl_sections import MethodSection, PetlSection
from vpetl_ray.spec.section import Section
from vpetl_ray.spec.sections import TrainingSection
from vpetl_ray.tuning.domains import Domain, Fixed, Value, as_domain


def space_tree(petl: PetlSection, training: TrainingSection, arch: Arch) -> dict[str, Domain]:
    """Write the spec's domains as `Space` wants them: flat, with stages and blocks by number."""
    tree: dict[str, Domain] = {}
    for name in PetlSection.model_fields:
        section = getattr(petl, name)
        if section is not None:
            fields = resolved_fields(_fields(section), arch)
            tree |= {f"petl.{name}.{field}": domain for field, domain in fields}
    return tree | {f"training.{field}": as_domain(v) for field, v in _fields(training).items()}


def start_values(entry: Mapping[str, Any], petl: PetlSection, arch: Arch) -> dict[str, Value]:
    """Write the user's start config as flat values; its values must have been checked."""
    values: dict[str, Value] = {}
    fields: dict[str, dict[str, SpecDomain]] = {}
    for path, raw in flat_entry(entry):
        section = getattr(petl, path[1], None) if path[0] == "petl" else None
        if isinstance(section, MethodSection):
            domain = given_domain(raw, getattr(section, path[2]))
            fields.setdefault(path[1], {})[path[2]] = domain
        else:
            values[".".join(path)] = raw
    for name, given in fields.items():
        stages = {"stages": getattr(getattr(petl, name), "stages")}  # noqa: B009 - for mypy
        for field, domain in resolved_fields({**stages, **given}, arch):
            assert isinstance(domain, Fixed) or field == "stages", "it is one config"
            if isinstance(domain, Fixed) and (field in given or field.partition(".")[0] in given):
                values[f"petl.{name}.{field}"] = domain.value
    return values


def given_domain(raw: Any, searched: SpecDomain) -> SpecDomain:
    """Write one value of a start config, or those of every stage, as what is searched there is."""
    by_stage = isinstance(raw, dict)
    given = raw[PER_STAGE] if isinstance(raw, dict) else raw
    if by_stage and isinstance(given, list):
        return PerStage(domains=tuple(Fixed(value=value) for value in given), is_list=True)
    fixed = Fixed(value=tuple(given) if isinstance(given, list) else given)
    return PerStage(domains=(fixed,)) if by_stage or isinstance(searched, PerStage) else fixed


def start_mistake(
    raw: object, given: Any, field: str, searched: SpecDomain, arch: Arch
) -> str | None:
    """Say why a start config cannot have a value; None if it can.

    Args:
        raw: as it is written.
        given: what was read from it, one value or a `PerStage`.
        field: of the method or the recipe.
        searched: what the space has there.
        arch: the backbone.
    """
    if isinstance(given, PerStage) and not isinstance(searched, PerStage):
        return "has one value for all stages in this space"
    wanted, domains = _of_stages(given, arch), _of_stages(searched, arch)
    if len(wanted) != len(domains):
        return f"per_stage must list {len(domains)}, one for each stage of {arch.name}"
    for pair in zip(wanted, domains, strict=True):
        is_where = field in ("stages", "blocks")
        one, domain = (with_numbers(field, d, arch) if is_where else d for d in pair)
        if not isinstance(one, Fixed):
            return "must be one value, not a domain"
        if isinstance(domain, Domain) and not domain.contains(one.value):
            return f"{show(raw)} is not a member of what is searched there"
    return None


def _of_stages(value: Any, arch: Arch) -> list[SpecDomain]:
    if isinstance(value, PerStage):
        return list(value.of_stages(arch))
    one = value if isinstance(value, SpecDomain) else Fixed(value=value)
    return [one] * arch.num_stages


def flat_entry(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value of a start config with its path."""
    for part in ("petl", "training"):
        for key, value in entry.get(part, {}).items():
            if isinstance(value, dict):
                yield from (((part, key, inner), v) for inner, v in value.items())
            else:
                yield (part, key), value


def _fields(section: Section) -> dict[str, Any]:
    return {field: getattr(section, field) for field in type(section).model_fields}
