"""The reference of the search space file, written from the models.

`python -m vpetl_ray.spec.reference > docs/search_space.md` renews the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vpetl_ray.spec.dump import inline_yaml
from vpetl_ray.spec.leaves import Given, Searched
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.spec.section import Section, section_of

_INTRODUCTION = """\
# The search space file

Written by `python -m vpetl_ray.spec.reference` from the models that read the file.

A value is fixed, or, where the table says "searched", a domain:

| domain | means |
|---|---|
| `{choice: [a, b]}` | one of the listed values |
| `{int: [low, high]}` | a whole number; with `log: true`, or with `step: n` |
| `{float: [low, high]}` | any number; with `log: true` |
| `{subset: [a, b, c], min: n}` | any `n` or more of the items together |
| `{subset: all, min: n}` | of stages and blocks: any `n` or more of all that the backbone has |
| `{per_stage: ...}` | where it says "per stage": a value or domain for every stage by \
itself, or a list with one for each stage |

A domain offers what a fixed value may be. What is inactive in a config (the width of a method that
is off, the learning rate of a linear probe) is not part of it. Relative paths start at the file;
those of `--set key.path=value` start at the working directory. The file is YAML without anchors,
aliases and tags; `on`, `off`, `yes` and `no` are words, and `1e-3` is a number.
"""


def reference() -> str:
    """Write the page."""
    return "\n".join([_INTRODUCTION, *_section(SearchSpec, "")]).rstrip() + "\n"


def _section(model: type[Section], path: str) -> Iterator[str]:
    title = f"`{path}`" if path else "Top level"
    yield f"## {title}\n"
    yield f"{(model.__doc__ or '').strip()}\n"
    leaves = [(name, info) for name, info in model.model_fields.items() if not section_of(info)]
    if leaves:
        yield "| key | what it is | may be | default |\n|---|---|---|---|"
        yield "\n".join(_row(name, info) for name, info in leaves) + "\n"
    for name, info in model.model_fields.items():
        section = section_of(info)
        if section is not None:
            yield from _section(section, f"{path}.{name}".lstrip("."))


def _row(name: str, info: FieldInfo) -> str:
    marker = next(entry for entry in info.metadata if isinstance(entry, Given))
    allowed = marker.kind.allowed + (", or null" if marker.kind.nullable else "")
    searched = ""
    if isinstance(marker, Searched):
        searched = "; searched, per stage too" if marker.per_stage else "; searched"
    default = "required"
    if info.default is not PydanticUndefined:
        default = f"`{inline_yaml(info.default)}`"
    return f"| `{name}` | {info.description} | {allowed}{searched} | {default} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
