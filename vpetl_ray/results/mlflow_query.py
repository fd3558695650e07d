"""Filters of MLflow's searches: its language has no way to quote a quote, so that none goes in."""

import re

from vpetl_ray.errors import SpecError

_PLAIN = re.compile(r"[\w.:\-]+", re.ASCII)


def tag_is(name: str, value: str) -> str:
    """Write the filter for runs that have a tag.

    Args:
        name: of the tag, ours or MLflow's.
        value: an id, which may come from a file or a command line.

    Raises:
        SpecError: it is no id.
    """
    if not _PLAIN.fullmatch(value):
        raise SpecError(
            f"{name}: an id has letters, digits, '.', '_', ':' and '-' alone, got {value[:80]!r}"
        )
    return f"tags.`{name}` = '{value}'"
