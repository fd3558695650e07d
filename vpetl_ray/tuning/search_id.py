"""The name that a search has for good, from its study's file alone."""

from __future__ import annotations

from pathlib import Path

import optuna

SEARCH_ID = "search_id"
"""The study's attribute."""


def search_id_of(study_file: Path) -> str | None:
    """Read a search's id; None where there is no study, or none of ours."""
    if not study_file.is_file():
        return None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.load_study(study_name="search", storage=f"sqlite:///{study_file}")
        found = study.user_attrs.get(SEARCH_ID)
    except (KeyError, optuna.exceptions.OptunaError):
        return None
    finally:
        optuna.logging.set_verbosity(before)
    return None if found is None else str(found)
