"""Pages of MLflow's UI that are ready to look at: right filter, right columns, right chart.

By itself the UI lists runs without a single metric, folded below their parent. What its "share"
button makes, an experiment tag that holds a state of the page and a link that names the tag, can
as well be made here. A UI that does not know these states shows the page as it would anyway.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

TAG_PREFIX = "mlflow.sharedViewState."
# MLflow 3's UI opens on its pages for language models unless the address says otherwise.
TRAINING_PAGES = "workflowType=machine_learning"

_METRICS = ("trainable_params", "top1", "test_top1")  # the duration is shown anyway


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """One page: `tag` holds its state, `link` leads to it from anywhere in the same UI."""

    title: str
    tag: tuple[str, str]
    link: str


def search_views(
    experiment_id: str,
    parent_run_id: str,
    config_columns: Sequence[str],
    *,
    costs: Sequence[str] = (),
) -> tuple[View, ...]:
    """The front as a table, all trials as a table, all trials as a chart of top-1 by parameters.

    Args:
        experiment_id: of the search.
        parent_run_id: of the search; its children are shown.
        config_columns: paths of the config that get a column.
        costs: objectives beside top-1 and trainable parameters, which get one, too.
    """
    trials = f"tags.`mlflow.parentRunId` = '{parent_run_id}'"
    columns = [f"metrics.`{key}`" for key in (*_METRICS, *costs)]
    columns += [f"params.`{path}`" for path in config_columns]
    table = {
        "orderByKey": "metrics.`trainable_params`",
        "orderByAsc": True,
        "selectedColumns": columns,
    }
    front = {**table, "searchFilter": f"tags.pareto = 'true' and {trials}"}
    every = {**table, "searchFilter": trials}
    # A chart is of the hundred runs that come first: the front is always among them.
    first = {"orderByKey": "tags.`pareto`", "orderByAsc": False}
    chart = {**every, **first, **_chart_state()}
    return tuple(
        _view(title, experiment_id, f"{parent_run_id}-{key}", state, mode)
        for title, key, state, mode in (
            ("the front", "front", front, "TABLE"),
            ("all trials", "trials", every, "TABLE"),
            ("accuracy against parameters", "chart", chart, "CHART"),
        )
    )


def seed_views(
    experiment_id: str,
    parent_run_id: str,
    config_columns: Sequence[str],
    *,
    costs: Sequence[str] = (),
) -> tuple[View, ...]:
    """All seeds of one config as a table; the arguments are those of `search_views`."""
    metrics = ("top1", "test_top1", "test_top1_multi_view", "seconds", *costs)
    columns = [f"metrics.`{key}`" for key in metrics]
    columns += [f"params.`{path}`" for path in config_columns]
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "selectedColumns": columns,
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run_id}'",
    }
    return (_view("all seeds", experiment_id, f"{parent_run_id}-seeds", state, "TABLE"),)


def _view(title: str, experiment_id: str, key: str, state: dict[str, Any], mode: str) -> View:
    link = f"#/experiments/{experiment_id}/runs?viewStateShareKey={quote(key)}&{TRAINING_PAGES}"
    if mode != "TABLE":
        link += f"&compareRunsMode={mode}"
    return View(title=title, tag=(TAG_PREFIX + key, json.dumps(state)), link=link)


def _chart_state() -> dict[str, Any]:
    section = "vpetl"
    common = {"deleted": False, "isGenerated": False, "metricSectionId": section}
    scatter = {
        "type": "SCATTER",
        "uuid": "vpetl-scatter",
        "xaxis": {"key": "trainable_params", "type": "METRIC"},
        "yaxis": {"key": "top1", "type": "METRIC"},
        "runsCountToCompare": 500,
    }
    curves = {
        "type": "LINE",
        "uuid": "vpetl-curves",
        "metricKey": "top1",
        "selectedMetricKeys": ["top1"],
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "runsCountToCompare": 20,
    }
    return {
        "compareRunCharts": [{**common, **scatter}, {**common, **curves}],
        "compareRunSections": [
            {
                "uuid": section,
                "name": "Search",
                "display": True,
                "isReordered": False,
                "columns": 2,
                "cardHeight": 480,
            }
        ],
        "isAccordionReordered": False,
        "runsHiddenMode": "SHOWALL",
    }
