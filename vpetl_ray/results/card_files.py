"""Model cards beside the adapters of a search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vpetl_ray.errors import SearchError
from vpetl_ray.results.atomic import replacing, write_json
from vpetl_ray.results.confirmed import CONFIRMED_FILE
from vpetl_ray.results.labels import path_label
from vpetl_ray.results.model_card import CardFacts, model_card, version_tags
from vpetl_ray.results.records import TrialRecord, read_trials
from vpetl_ray.results.registration import Candidate

ABOUT_FILE = "about.json"
"""What all cards of a search have in common."""


def write_cards(directory: Path, facts: CardFacts, front: Sequence[TrialRecord]) -> list[Candidate]:
    """Write a card for each front member whose adapter is there: `adapters/t0007.md`.

    Returns:
        The members, as the registry takes them.

    Raises:
        SearchError: a file cannot be written.
    """
    write_json(directory / ABOUT_FILE, asdict(facts))
    members = []
    for record in front:
        adapter = directory / "adapters" / f"{record.id}.safetensors"
        if adapter.is_file():
            card = model_card(facts, record, adapter)
            with replacing(adapter.with_suffix(".md")) as path:
                path.write_text(card, encoding="utf-8")
            tags = version_tags(facts, record)
            members.append(Candidate(trial=record.id, adapter=adapter, card=card, tags=tags))
    return members


def renew_cards(directory: Path, trials: Sequence[str]) -> dict[str, str]:
    """Write the cards of trials anew, with what `confirm` has found out; give those that there are.

    Raises:
        SearchError: a file cannot be read or written.
    """
    cards = {}
    for trial in trials:
        path = directory / "adapters" / f"{trial}.md"
        if path.is_file() and path.with_suffix(".safetensors").is_file():
            cards[trial] = card_of(directory, trial)
            with replacing(path) as temporary:
                temporary.write_text(cards[trial], encoding="utf-8")
    return cards


def card_of(directory: Path, trial: str) -> str:
    """Write a trial's card anew, with what `confirm` has found out since.

    Raises:
        SearchError: the search's files cannot be read.
    """
    path = directory / ABOUT_FILE
    try:
        about: dict[str, Any] = json.loads(path.read_bytes())
        facts = CardFacts(
            **{**about, "classes": tuple(about["classes"]), "folder": path_label(directory)}
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SearchError(f"{path}: cannot be read: {error}") from error
    record = next(r for r in read_trials(directory / "trials.parquet") if r.id == trial)
    adapter = directory / "adapters" / f"{trial}.safetensors"
    return model_card(facts, record, adapter, confirmed=_confirmed(directory, trial))


def _confirmed(directory: Path, trial: str) -> dict[str, Any] | None:
    path = directory / CONFIRMED_FILE
    if not path.is_file():
        return None
    try:
        members: list[dict[str, Any]] = json.loads(path.read_bytes())["members"]
    except (OSError, ValueError, KeyError) as error:
        raise SearchError(f"{path}: cannot be read: {error}") from error
    return next((member for member in members if member["id"] == trial), None)
