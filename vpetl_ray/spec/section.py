"""What every section of a search space file is: a model that knows its keys and never changes."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A mapping of the file; unknown keys are mistakes and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def section_of(info: FieldInfo) -> type[Section] | None:
    """Return the section that a field holds, None where it is a leaf."""
    for kind in (info.annotation, *get_args(info.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None
