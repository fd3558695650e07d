"""What a search leaves when no more trials come: its history, and what mattered in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpetl_ray.models.arch import Arch
from vpetl_ray.results.atomic import write_json
from vpetl_ray.results.choices import Choice, choice_table
from vpetl_ray.results.history import history_of, write_history
from vpetl_ray.results.importance import (
    OBJECTIVES,
    ObjectiveImportance,
    importances,
    trials_needed,
)
from vpetl_ray.results.labels import count_label
from vpetl_ray.results.position_table import PositionCell, position_table
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.results.same_length import SameLength, same_length

HISTORY_FILE, HISTORY_FIGURE = "history.parquet", "history.png"
IMPORTANCE_FILE = "importance.json"
IMPORTANCE_FIGURE, POSITIONS_FIGURE = "importance.png", "positions.png"
PARALLEL_FIGURE = "parallel.png"
_TOLD = 4
"""Choices that a sentence names."""
_DEFINITION = (
    "total Sobol index: the share of the variance that is left if everything but the choice is "
    "held; conditional choices are exchanged among the trials that have them, a method's on or "
    "off together with all of its own choices"
)
_TARGETS = {
    "top1": "top-1 on validation, percent",
    "log10_params": "log10 of the trainable parameters",
    "hypervolume": "rank of the trial's share of the hypervolume, each part of which is divided "
    "equally among the trials that reach it (Shapley value)",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What there is to say about a search besides its front."""

    files: tuple[Path, ...]
    """Written, in the search's directory."""
    lines: tuple[str, ...]
    """What mattered, for the terminal."""
    markdown: str
    """The same for MLflow, as a table."""


def write_report(
    directory: Path,
    records: Sequence[TrialRecord],
    *,
    name: str,
    arch: Arch,
    max_params: int,
    references: Mapping[str, float] | None = None,
    also_svg: bool = False,
) -> Report:
    """Write the history, the trials as lines and, of enough, importances and the heat map.

    Args:
        directory: of the search.
        records: all of it.
        name: of the search.
        arch: its backbone.
        max_params: right edge of the hypervolume.
        references: of the history's hypervolume, further objectives with where their axes end.
        also_svg: draw each figure as SVG, too.

    Raises:
        SearchError: a file cannot be written.
    """
    # Here: together they take seconds, and a search needs them at its end alone.
    from vpetl_ray.results.history_figure import plot_history  # noqa: PLC0415
    from vpetl_ray.results.importance_figure import (  # noqa: PLC0415
        plot_importance,
        plot_positions,
    )
    from vpetl_ray.results.parallel_figure import plot_parallel  # noqa: PLC0415

    history = history_of(records, max_params=max_params, references=references)
    write_history(directory / HISTORY_FILE, history)
    names = [HISTORY_FILE, HISTORY_FIGURE, IMPORTANCE_FILE]
    for path in _formats(directory / HISTORY_FIGURE, also_svg=also_svg):
        plot_history(
            history,
            path,
            title=f"{name}: how the front grew",
            subtitle=f"Hypervolume up to {count_label(max_params)} parameters and down to 0% "
            "top-1. A linear probe counts as one epoch.",
        )
    complete = [r for r in records if r.state is TrialState.COMPLETE and r.top1 is not None]
    if len(complete) > 1:
        for path in _formats(directory / PARALLEL_FIGURE, also_svg=also_svg):
            plot_parallel(complete, path, title=f"{name}: every trial as a line")
        names.append(PARALLEL_FIGURE)
    sample = same_length(records, least=trials_needed(0))
    table = choice_table(sample.records)
    needed = trials_needed(len(table.choices))
    found: tuple[ObjectiveImportance, ...] = ()
    if table.choices and len(sample.records) >= needed:
        found = importances(sample, table, max_params=max_params)
        title, subtitle = f"{name}: what mattered", f"{sample.sentence}."
        for path in _formats(directory / IMPORTANCE_FIGURE, also_svg=also_svg):
            plot_importance(found, path, title=title, subtitle=subtitle)
        names.append(IMPORTANCE_FIGURE)
    cells = position_table(sample.records, sample.top1, arch)
    if cells:
        for path in _formats(directory / POSITIONS_FIGURE, also_svg=also_svg):
            plot_positions(
                cells,
                path,
                title=f"{name}: accuracy by position",
                subtitle=f"{sample.sentence}; a trial counts in each place it acts in",
                num_stages=arch.num_stages,
            )
        names.append(POSITIONS_FIGURE)
    reason = None if found else _lack(sample, table.choices, needed)
    document = _document(sample, table.choices, found, cells, reason)
    write_json(directory / IMPORTANCE_FILE, document)
    return Report(
        files=tuple(directory / file for file in names),
        lines=_lines(found, reason),
        markdown=_markdown(found, sample, reason),
    )


def _formats(path: Path, *, also_svg: bool) -> list[Path]:
    return [path, path.with_suffix(".svg")] if also_svg else [path]


def _lack(sample: SameLength, choices: Sequence[Choice], needed: int) -> str:
    if not choices:
        return "the trials do not differ" if sample.records else "no trial is complete"
    counted = "1 choice needs" if len(choices) == 1 else f"{len(choices)} choices need"
    return f"{counted} {needed} trials to be compared, there are {len(sample.records)}"


def _document(
    sample: SameLength,
    choices: Sequence[Choice],
    found: Sequence[ObjectiveImportance],
    cells: Sequence[PositionCell],
    reason: str | None,
) -> dict[str, Any]:
    return {
        "trials": len(sample.records),
        "after_epoch": sample.epoch,
        "of": sample.sentence,
        "definition": _DEFINITION,
        "missing_because": reason,
        "objectives": {
            objective.objective: {
                "target": _TARGETS[objective.objective],
                "r2_on_unseen_trials": objective.explained,
                "is_trusted": objective.is_trusted,
                "choices": [
                    {
                        "choice": choice.name,
                        "importance": choice.share,
                        "standard_error": choice.error,
                        "is_conditional": choice.active < 1.0,
                        "share_of_trials": choice.active,
                    }
                    for choice in objective.choices
                ],
            }
            for objective in found
        },
        "choices": [choice.name for choice in choices],
        "positions": [dict(vars(cell)) for cell in cells],
    }


def _lines(found: Sequence[ObjectiveImportance], reason: str | None) -> tuple[str, ...]:
    if reason is not None:
        return (f"what mattered is not known: {reason}",)
    words = {"top1": "accuracy", "log10_params": "parameters", "hypervolume": "the front"}
    lines = []
    for objective in found:
        best = [choice for choice in objective.choices if choice.share > choice.error][:_TOLD]
        told = ", ".join(f"{choice.name} {100 * choice.share:.0f}%" for choice in best)
        doubt = "" if objective.is_trusted else f" (uncertain: R² {objective.explained:.2f})"
        lines.append(f"what mattered for {words[objective.objective]}: {told or 'nothing'}{doubt}")
    return tuple(lines)


def _markdown(found: Sequence[ObjectiveImportance], sample: SameLength, reason: str | None) -> str:
    if reason is not None:
        return f"What mattered is not known: {reason}."
    shares = {
        objective.objective: {choice.name: choice.share for choice in objective.choices}
        for objective in found
    }
    names = sorted(
        {name for own in shares.values() for name in own},
        key=lambda name: -sum(own.get(name, 0.0) for own in shares.values()),
    )
    heads = {"top1": "top-1", "log10_params": "parameters", "hypervolume": "hypervolume"}
    rows = ["| what mattered | " + " | ".join(heads[key] for key in OBJECTIVES) + " |"]
    rows.append("|---|" + "---:|" * len(OBJECTIVES))
    for name in names[:6]:
        cells = [f"{100 * shares[key].get(name, 0.0):.0f}%" for key in OBJECTIVES]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    told = ", ".join(f"{heads[o.objective]} {o.explained:.2f}" for o in found)
    return "\n".join(rows) + f"\n\nOf {sample.sentence}; R² on unseen trials: {told}."
