"""A trial's values back from how they are kept: a row of `trials.parquet`, front.json, MLflow.

There, a subset is written as `kv` or `1+3`, and MLflow keeps every value as text. Of each path the
domain says which member is meant.
"""

from __future__ import annotations

from collections.abc import Mapping

from vpetl_ray.errors import SpecError
from vpetl_ray.tuning.domains import (
    NONE_CHOSEN,
    Domain,
    Fixed,
    FloatRange,
    IntRange,
    Scalar,
    Subset,
    Value,
    label,
)
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.space import Space
from vpetl_ray.tuning.start import middle


def values_from_columns(
    space: Space, columns: Mapping[str, Scalar]
) -> tuple[Values, tuple[str, ...]]:
    """Read a config's active values.

    Args:
        space: what is fixed in it wins over `columns`.
        columns: path to what `Space.config_columns` gave, or MLflow's text of it.

    Returns:
        The values, and the paths that are open: neither fixed nor among `columns`. Those have some
        member of their domain.

    Raises:
        SpecError: a value that this space does not have.
    """
    missing: list[str] = []

    def pick(path: str, domain: Domain) -> Value:
        if isinstance(domain, Fixed):
            return domain.value
        if columns.get(path) is not None:
            return read_label(domain, path, columns[path])
        if columns and domain.contains(None):
            return None  # is not written down
        missing.append(path)
        return middle(domain)

    return space.walk(pick), tuple(missing)


def read_label(domain: Domain, path: str, text: Scalar) -> Value:
    """Find the member of `domain` that `label` wrote as `text`.

    Raises:
        SpecError: there is none.
    """
    try:
        value = _read(domain, text)
    except ValueError:
        value = None
    if value is None or not domain.contains(value):
        raise SpecError(f"{path}: {text!r} is not in this space; it has {domain}")
    return value


def _read(domain: Domain, text: Scalar) -> Value:
    if isinstance(domain, FloatRange):
        return float(text)  # type: ignore[arg-type]
    if isinstance(domain, IntRange):
        return int(float(text))  # type: ignore[arg-type]
    if isinstance(domain, Subset):
        return _read_subset(domain, str(text))
    return next((m for m in domain.members() if m is not None and _is_written(m, text)), None)


def _read_subset(domain: Subset, text: str) -> Value:
    by_word = {str(item): item for item in domain.items}
    words = [] if text == NONE_CHOSEN else text.split("+")
    if any(word not in by_word for word in words):
        words = list(text)  # letters are written without a sign between them
    if any(word not in by_word for word in words):
        return None
    return domain.ordered(by_word[word] for word in words)


def _is_written(member: Value, text: Scalar) -> bool:
    written = label(member)
    if isinstance(written, bool) or isinstance(text, bool):
        return str(written).lower() == str(text).lower()
    if isinstance(written, int | float):
        try:
            return float(text) == written  # type: ignore[arg-type]
        except ValueError:
            return False
    return written == text
