"""`report.html`: a search as one interactive page, at any moment of it."""

from __future__ import annotations

import html
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpetl_ray.results.front import front_of, knee_of
from vpetl_ray.results.front_chart import front_chart
from vpetl_ray.results.front_facts import front_facts
from vpetl_ray.results.history import history_of
from vpetl_ray.results.labels import trial_label
from vpetl_ray.results.page import write_page
from vpetl_ray.results.page_charts import (
    history_chart,
    importance_chart,
    parallel_chart,
    position_chart,
)
from vpetl_ray.results.paper_points import paper_points
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.results.report import IMPORTANCE_FILE

PAGE_FILE = "report.html"


@dataclass(frozen=True, kw_only=True)
class PageFacts:
    """What a page says of the search besides its trials."""

    name: str
    folder: str = ""
    """Of the search, as a person would type it; by default `runs/<name>`."""
    backbone: str
    backbone_params: int
    data: str
    """The kind of data set."""
    budget: int | None = None
    references: Mapping[str, float] = field(default_factory=dict)
    """As `front_facts` takes them."""


def write_search_page(
    directory: Path, facts: PageFacts, records: Sequence[TrialRecord], *, is_running: bool
) -> Path:
    """Write `report.html`, with the importances of importance.json where that is there.

    Args:
        directory: of the search.
        facts: about it.
        records: all of its trials so far.
        is_running: whether more come; the page then looks again by itself.

    Raises:
        SearchError: the file cannot be written.
    """
    front = front_of(records)
    history = history_of(records, max_params=facts.backbone_params, references=facts.references)
    importance = _importance(directory)
    charts = [
        front_chart(records, budget=facts.budget, paper=paper_points(facts.backbone, facts.data)),
        history_chart(history),
        importance_chart(importance),
        position_chart(importance),
        parallel_chart(records),
    ]
    path = directory / PAGE_FILE
    write_page(
        path,
        title=facts.name,
        intro=_intro(facts, records, front, is_running=is_running),
        charts=charts,
        table=_table(front, facts.folder or f"runs/{facts.name}"),
        is_running=is_running,
    )
    return path


def _importance(directory: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads((directory / IMPORTANCE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return document


def _intro(
    facts: PageFacts,
    records: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    *,
    is_running: bool,
) -> list[str]:
    states = Counter(record.state for record in records)
    counted = ", ".join(f"{states[state]} {state}" for state in TrialState if states[state])
    limit = f", at most {facts.budget:,} trainable parameters" if facts.budget else ""
    told = [
        f"Where and how to adapt a frozen {facts.backbone} ({facts.backbone_params:,} parameters) "
        f"to {facts.data} data{limit}. Trials: {counted or 'none yet'}."
    ]
    if front:
        known = front_facts(
            front, backbone_params=facts.backbone_params, references=facts.references
        )
        told.append(f"{known.sentence().capitalize()}.")
    if is_running:
        told.append("The search runs; this page looks again every few seconds.")
    return told


def _table(front: Sequence[TrialRecord], folder: str) -> str:
    """Write the front as a table, with the command that uses the knee."""
    if not front:
        return ""
    bend = knee_of(front)
    rows = []
    for record in front:
        is_knee = bend is not None and record.id == bend.id
        test = "" if record.test_top1 is None else f"{record.test_top1:.1f}"
        cells = [record.id + (" (knee)" if is_knee else ""), trial_label(record)]
        numbers = [f"{record.trainable_params:,}", f"{record.top1 or 0:.1f}", test]
        text = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        text += "".join(f'<td class="number">{cell}</td>' for cell in numbers)
        rows.append(f"<tr{' class=knee' if is_knee else ''}>{text}</tr>")
    heads = "<th>trial</th><th>config</th>" + "".join(
        f'<th class="number">{head}</th>'
        for head in ("parameters", "top-1 % (validation)", "top-1 % (test)")
    )
    use = html.escape(f"python -m vpetl_ray.predict {shlex.quote(folder)}@knee VIDEO.mp4")
    return (
        f"<h2>The front</h2><table><tr>{heads}</tr>{''.join(rows)}</table>"
        f"<p>Use one: <code>{use}</code></p>"
    )
