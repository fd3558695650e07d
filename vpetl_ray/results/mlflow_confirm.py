"""Tells MLflow what a front came to over several seeds. Importing this module imports MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from vpetl_ray.addresses import redact
from vpetl_ray.results.confirmed import (
    CONFIRMED_FILE,
    Confirmation,
    Member,
    spread_label,
)
from vpetl_ray.results.mlflow_query import tag_is
from vpetl_ray.results.standings import Standing, Verdict
from vpetl_ray.results.tracking import quiet_client, set_client_defaults

set_client_defaults()  # before the client is imported
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, RunTag  # noqa: E402

from vpetl_ray.results.mlflow_registry import renew_card  # noqa: E402
from vpetl_ray.results.mlflow_writer import PARENT, SEARCH_ID, TRIAL_ID  # noqa: E402

STANDING = "confirmed"
"""Tag of a trial's run: its standing; of the search's run: how many members have one."""
_NOTE = "mlflow.note.content"
_HEADING = "Confirmed with several seeds"
_MAX_TAG_LENGTH = 5000
_PAGE = 1000


def tell_mlflow(
    uri: str,
    search_id: str | None,
    known: Confirmation,
    directory: Path,
    cards: Mapping[str, str] = MappingProxyType({}),
) -> str | None:
    """Give the runs of the search and of its members their means, spreads and standings.

    The members' versions of the registered model get their new cards, by trial.

    Metrics `confirmed_top1`, `confirmed_test_top1`, their `_sd`, `confirmed_seeds` and the tag
    `confirmed` on the members; `confirmed_hypervolume`, `confirmed_noise_sd`, the counts, the file
    and a table in the description on the search. Told again, the newest counts.

    Returns:
        None, or why MLflow was not told, in one line.
    """
    quiet_client()
    try:
        return _tell(MlflowClient(uri), search_id, known, directory, cards)
    except Exception as error:  # noqa: BLE001 - the file has everything, MLflow is told again
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return redact(f"MLflow at {uri} cannot be written to: {reason}", uri)


def _tell(
    client: MlflowClient,
    search_id: str | None,
    known: Confirmation,
    directory: Path,
    cards: Mapping[str, str],
) -> str | None:
    experiments = [found.experiment_id for found in client.search_experiments()]
    found = (
        client.search_runs(experiments, tag_is(SEARCH_ID, search_id), max_results=1)
        if search_id
        else []
    )
    if not found:
        return f"MLflow has no run of this search; {CONFIRMED_FILE} has everything"
    parent = found[0]
    below = tag_is(PARENT, parent.info.run_id)
    verdicts = known.verdicts
    run_ids: dict[str, str] = {}
    for member in known.members:
        verdict = verdicts.get(member.id)
        runs = client.search_runs(
            [parent.info.experiment_id],
            f"{below} and {tag_is(TRIAL_ID, member.id)}",
            max_results=1,
        )
        if runs and verdict is not None:
            _log(client, runs[0].info.run_id, _metrics(member), _tags(verdict))
            run_ids[member.id] = runs[0].info.run_id
    counts = [sum(v.standing is standing for v in verdicts.values()) for standing in Standing]
    metrics = {
        "confirmed_hypervolume": known.hypervolume,
        "confirmed_members": float(len(verdicts)),
        "confirmed_behind": float(counts[-1]),
    }
    if known.noise.sd is not None:
        metrics["confirmed_noise_sd"] = known.noise.sd
    note = _with_table(parent.data.tags.get(_NOTE, ""), known, verdicts)
    told = f"{len(verdicts)} members, {counts[-1]} behind"
    _log(client, parent.info.run_id, metrics, {STANDING: told, _NOTE: note})
    client.log_artifact(parent.info.run_id, str(directory / CONFIRMED_FILE))
    for trial in cards.keys() & run_ids.keys():  # last: not every server has a registry
        renew_card(client, run_ids[trial], cards[trial])
    return None


def _log(
    client: MlflowClient, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]
) -> None:
    now = round(1000 * time.time())
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, 0) for key, value in metrics.items()],
        tags=[RunTag(key, value[:_MAX_TAG_LENGTH]) for key, value in tags.items()],
    )


def _metrics(member: Member) -> dict[str, float]:
    metrics = {"confirmed_seeds": float(len(member.done))}
    for measure, name in (("val_top1", "confirmed_top1"), ("test_top1", "confirmed_test_top1")):
        spread = member.spread(measure)
        if spread is not None:
            metrics[name] = spread.mean
            if spread.sd is not None:
                metrics[f"{name}_sd"] = spread.sd
    return metrics


def _tags(verdict: Verdict) -> dict[str, str]:
    by = {"confirmed.beaten_by": verdict.beaten_by} if verdict.beaten_by else {}
    return {STANDING: verdict.standing.value, **by}


def _with_table(note: str, known: Confirmation, verdicts: Mapping[str, Verdict]) -> str:
    """Put the table below the first paragraph and the links; an older table makes way."""
    rows = [f"**{_HEADING}**", "", "| trial | validation | test | |", "|---|---:|---:|---|"]
    for member in known.members:
        verdict = verdicts.get(member.id)
        stands = verdict.standing.value if verdict else "not trained"
        cells = (spread_label(member.spread("val_top1")), spread_label(member.spread("test_top1")))
        rows.append(f"| {member.id} | {' | '.join(cells)} | {stands} |")
    table = "\n".join(rows)
    parts = note.split("\n\n")
    if f"**{_HEADING}**" in parts:
        at = parts.index(f"**{_HEADING}**")
        del parts[at : at + 2]
    place = min(2, len(parts))
    return "\n\n".join([*parts[:place], table, *parts[place:]])[:_MAX_TAG_LENGTH]
