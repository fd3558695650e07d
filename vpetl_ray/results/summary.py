"""A search in Markdown: the description of its run in MLflow."""

from collections import Counter
from collections.abc import Sequence

from vpetl_ray.results.front import knee
from vpetl_ray.results.labels import config_label, count_label
from vpetl_ray.results.records import TrialRecord, TrialState

_MAX_ROWS = 24  # MLflow keeps 5000 characters of a tag


def search_markdown(
    intro: str,
    records: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    *,
    budget: int | None = None,
) -> str:
    """Say what was searched and how far it is, and list the front.

    Args:
        intro: one paragraph: data, backbone, what is searched.
        records: all trials so far.
        front: of them, cheapest first.
        budget: limit on trainable parameters.
    """
    states = Counter(record.state for record in records)
    counted = ", ".join(f"{states[state]} {state}" for state in TrialState if states[state])
    lines = [intro, "", f"**Trials:** {counted or 'none yet'}."]
    if budget is not None:
        lines += ["", f"**Budget:** {budget:,} trainable parameters."]
    if front:
        lines += ["", *_front_table(front), "", _how_to_pick(front)]
    return "\n".join(lines).strip() + "\n"


def _front_table(front: Sequence[TrialRecord]) -> list[str]:
    tested = any(record.test_top1 is not None for record in front)
    head = ["trial", "parameters", "top-1 (validation)", *(["top-1 (test)"] if tested else [])]
    rows = [
        "| " + " | ".join([*head, "config"]) + " |",
        "|" + "---|" + "---:|" * (len(head) - 1) + "---|",
    ]
    for record in _thinned(front):
        cells = [record.id, count_label(record.trainable_params), _percent(record.top1)]
        cells += [_percent(record.test_top1)] if tested else []
        config = config_label(record.config)
        named = record.name is not None and record.name != config
        cells.append(f"**{record.name}**: {config}" if named else config)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if len(front) > _MAX_ROWS:
        rows += ["", f"{_MAX_ROWS} of {len(front)} shown; all are in the table `front.parquet`."]
    return rows


def _thinned(front: Sequence[TrialRecord]) -> list[TrialRecord]:
    if len(front) <= _MAX_ROWS:
        return list(front)
    return [front[round(i * (len(front) - 1) / (_MAX_ROWS - 1))] for i in range(_MAX_ROWS)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}%"


def _how_to_pick(front: Sequence[TrialRecord]) -> str:
    bend = front[
        knee(
            [record.trainable_params for record in front], [record.top1 or 0.0 for record in front]
        )
    ]
    return (
        f"Smallest: **{front[0].id}**. Knee, where more parameters stop paying: **{bend.id}**. "
        f"Most accurate: **{front[-1].id}**. Filter the runs by `tags.pareto = 'true'` to see the "
        "front alone; the adapter weights are artifacts of its runs."
    )
