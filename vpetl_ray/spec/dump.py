"""A spec back to YAML: every default filled in, domains on one line, the same words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from vpetl_ray.spec.by_arch import Unresolved
from vpetl_ray.spec.leaves import plain_domain
from vpetl_ray.spec.section import Section
from vpetl_ray.tuning.domains import Domain

if TYPE_CHECKING:
    from vpetl_ray.spec.search_spec import SearchSpec


class _OneLine(dict):  # type: ignore[type-arg]
    """A mapping that is written in braces."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `document` would read as a number, and writes lists on one line."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Dumper.add_representer(
    _OneLine,
    lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True),
)
_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True),
)


def spec_to_dict(spec: SearchSpec) -> dict[str, Any]:
    """Return plain values, every default filled in."""
    return _section(spec)


def spec_to_yaml(spec: SearchSpec) -> str:
    """Write YAML text that loads to an equal spec."""
    return yaml.dump(
        _section(spec), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000
    )


def inline_yaml(value: object) -> str:
    """Write one value on one line."""
    text: str = yaml.dump(_plain(value), Dumper=_Dumper, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _section(section: Section) -> dict[str, Any]:
    return {name: _plain(getattr(section, name)) for name in type(section).model_fields}


def _plain(value: object) -> Any:
    if isinstance(value, Section):
        return _section(value)
    if isinstance(value, Domain | Unresolved):
        value = plain_domain(value)
    if isinstance(value, dict):
        return _OneLine({key: _plain(entry) for key, entry in value.items()})
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
