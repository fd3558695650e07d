"""The start configs of a spec by name, and what makes a list of them one that cannot be trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vpetl_ray.spec.kinds import show
from vpetl_ray.spec.sections import SearchSection
from vpetl_ray.tuning.space import NothingToTrain, Space
from vpetl_ray.tuning.start import StartPlan


def chosen_entries(search: SearchSection) -> list[str | dict[str, Any]]:
    """Return the start configs, of a list those that `only` names."""
    wanted = search.only
    return [e for e in search.start if wanted is None or entry_name(e) in wanted]


def entry_name(entry: str | Mapping[str, Any]) -> str:
    """Return what a start config is called in the file."""
    return entry if isinstance(entry, str) else str(entry["name"])


def list_mistake(space: Space, plan: StartPlan, budget: int | None) -> str | None:
    """Say why not all of a list can be trained as it stands; None if it can."""
    for name, reason in plan.left_out.items():
        return f"{name} cannot be in the list: {reason}"
    names: dict[str, str] = {}
    for name, values in plan.trials:
        try:
            config = space.build(values)
        except NothingToTrain as error:
            return f"{name!r} cannot be in the list: {error}"
        key, count = config.key, space.count(config)
        if budget is not None and count > budget:
            return f"{name!r} has {show(count)} parameters, above the budget of {show(budget)}"
        if names.setdefault(key, name) != name:
            return f"{names[key]!r} and {name!r} are the same config; take one of them out"
    return None
