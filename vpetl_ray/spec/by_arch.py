"""Domains that the architecture completes: all of its stages or blocks, one for each stage.

A file names the backbone apart from what is searched on it, so these are read as they stand and
become domains of the space once both are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from vpetl_ray.models.arch import Arch
from vpetl_ray.tuning.domains import Choice, Domain, Fixed, Subset, Value

ALL = "all"
"""Every stage or block of the backbone."""
PER_STAGE = "per_stage"


@dataclass(frozen=True, kw_only=True)
class AnyOfAll:
    """Any of all stages or blocks together: `{subset: all}`."""

    min_size: int = 0


@dataclass(frozen=True, kw_only=True)
class PerStage:
    """A domain for every stage, or a list of one for each: `{per_stage: ...}`."""

    domains: tuple[Domain, ...]
    """One if it is that of every stage, unless it is a list of one."""
    is_list: bool = False

    def of_stages(self, arch: Arch) -> tuple[Domain, ...]:
        """Return the domain of each stage."""
        return self.domains if self.is_list else self.domains * arch.num_stages


Unresolved = AnyOfAll | PerStage
SpecDomain = Domain | Unresolved


def every(field: str, arch: Arch) -> tuple[int, ...]:
    """Return the numbers of all `stages` or `blocks`."""
    num = arch.num_stages if field == "stages" else sum(arch.depths)
    return tuple(range(1, num + 1))


def resolved_fields(fields: Mapping[str, SpecDomain], arch: Arch) -> Iterator[tuple[str, Domain]]:
    """Yield the fields of one method as a space has them.

    Of the blocks only those in the chosen stages are left: a method goes into what is in both.
    All blocks of all of them is no field at all.
    """
    for field, domain in fields.items():
        if isinstance(domain, PerStage):
            for stage, own in enumerate(domain.of_stages(arch), start=1):
                yield f"{field}.stage{stage}", own
        elif field in ("stages", "blocks"):
            numbers = with_numbers(field, domain, arch)
            if field == "stages":
                yield field, numbers
            elif not isinstance(domain, Fixed) or domain.value != ALL:
                stages = with_numbers("stages", fields.get("stages", Fixed(value=ALL)), arch)
                yield field, _inside(numbers, stages, arch)
        elif isinstance(domain, Domain):
            yield field, domain


def with_numbers(field: str, domain: SpecDomain, arch: Arch) -> Domain:
    """Write `all` of this architecture as a tuple of numbers."""
    numbers = every(field, arch)
    match domain:
        case AnyOfAll(min_size=min_size):
            return Subset(items=numbers, min_size=min_size)
        case Fixed(value="all"):
            return Fixed(value=numbers)
        case Choice(options=options):
            return replace(domain, options=tuple(numbers if o == ALL else o for o in options))
        case Domain():
            return domain
    raise TypeError(f"{domain} has no stages or blocks")


def _inside(blocks: Domain, stages: Domain, arch: Arch) -> Domain:
    """Leave out blocks that are in none of the stages, where those are fixed."""
    chosen = stages.value if isinstance(stages, Fixed) and isinstance(stages.value, tuple) else ()
    inside = {site.index + 1 for site in arch.blocks() if site.stage in chosen}

    def cut(value: Value) -> tuple[Value, ...]:
        return tuple(b for b in value if b in inside) if isinstance(value, tuple) else ()

    match blocks:
        case Subset(items=items, min_size=min_size):
            left = cut(items)
            if not left:
                return Fixed(value=())
            return Subset(items=left, min_size=min(min_size, len(left)))  # type: ignore[arg-type]
        case Choice(options=options):
            return Choice(options=tuple(dict.fromkeys(cut(option) for option in options)))
        case Fixed(value=value):
            return Fixed(value=cut(value))
    raise TypeError(f"{blocks} has no blocks")
