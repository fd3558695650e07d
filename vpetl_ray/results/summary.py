"""A search in Markdown: the description of its run in MLflow."""

from collections import Counter
from collections.abc import Sequence

from vpetl_ray.results.front import knee_of, ppt
from vpetl_ray.results.front_facts import FrontFacts
from vpetl_ray.results.labels import config_label, cost_label, count_label
from vpetl_ray.results.records import TrialRecord, TrialState

_MAX_ROWS = 24
_MIN_ROWS = 4
_MAX_LENGTH = 3800
"""Characters: MLflow keeps 5000 of a tag, and links and `confirm` take their part."""
_PICKING = (
    "How to pick: the knee is where more parameters stop paying. The filter "
    "`tags.pareto = 'true'` shows the front. Each member is a version of a registered model, with "
    "the aliases best, knee, smallest and any that you set: "
    "`python -m vpetl_ray.predict models:/{name}@knee VIDEO.mp4` uses one, "
    "`python -m vpetl_ray.pick {name} --max-params N` picks one by a limit."
)


def search_markdown(
    intro: str,
    records: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    *,
    name: str = "NAME",
    budget: int | None = None,
    facts: FrontFacts | None = None,
    findings: str = "",
) -> str:
    """Say what was searched and how far it is, and list the front.

    Args:
        intro: one paragraph: data, backbone, what is searched.
        records: all trials so far.
        front: of them, cheapest first.
        name: of the search.
        budget: limit on trainable parameters.
        facts: about the front as a whole.
        findings: more paragraphs, such as what mattered.
    """
    states = Counter(record.state for record in records)
    counted = ", ".join(f"{states[state]} {state}" for state in TrialState if states[state])
    limit = "" if budget is None else f" Budget: {budget:,} trainable parameters."
    trials = f"Trials: {counted or 'none yet'}.{limit}"
    if not front:
        return f"{trials}\n\n{intro}\n"
    if facts:
        trials += f" {facts.sentence().capitalize()}."
    # The first lines alone are seen before "show more": links come below them.
    rest = [trials, findings, intro, _PICKING.format(name=name)]
    most = _MAX_ROWS
    while True:
        parts = [_headline(front), "\n".join(_front_table(front, most)), *rest]
        text = "\n\n".join(part for part in parts if part) + "\n"
        if len(text) <= _MAX_LENGTH or most <= _MIN_ROWS:
            return text
        most -= 2


def _headline(front: Sequence[TrialRecord]) -> str:
    """Name the members to look at, in the few lines that MLflow shows before "show more"."""
    bend = knee_of(front) or front[0]
    best = max(front, key=lambda record: record.top1 or 0.0)
    members = {"smallest": front[0], "knee": bend, "best": best}
    if len(front) == 1:
        members = {"only": bend}
    told = ", ".join(
        f"{role} **{record.id}** ({_percent(record.top1)} with "
        f"{count_label(record.trainable_params)})"
        for role, record in members.items()
    )
    return f"Front of {len(front)}: {told}."


def _front_table(front: Sequence[TrialRecord], most: int) -> list[str]:
    tested = any(record.test_top1 is not None for record in front)
    head = ["trial", "parameters", "top-1 (validation)", *(["top-1 (test)"] if tested else [])]
    costs = tuple(front[0].costs)
    head += costs
    head.append("PPT")
    rows = [
        "| " + " | ".join([*head, "config"]) + " |",
        "|" + "---|" + "---:|" * (len(head) - 1) + "---|",
    ]
    for record in _thinned(front, most):
        cells = [record.id, count_label(record.trainable_params), _percent(record.top1)]
        cells += [_percent(record.test_top1)] if tested else []
        cells += [cost_label(name, record.costs.get(name)) for name in costs]
        cells.append(f"{ppt(record.top1 or 0.0, record.trainable_params):.1f}")
        # As code: a bare "@2" would become a link to somebody of that name.
        config = f"`{config_label(record.config)}`"
        named = record.name is not None and record.name not in config
        cells.append(f"**{record.name}**: {config}" if named else config)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if len(front) > most:
        rows += ["", f"{most} of {len(front)} shown; all are in the table `front.parquet`."]
    return rows


def _thinned(front: Sequence[TrialRecord], most: int) -> list[TrialRecord]:
    if len(front) <= most:
        return list(front)
    return [front[round(i * (len(front) - 1) / (most - 1))] for i in range(most)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}%"
