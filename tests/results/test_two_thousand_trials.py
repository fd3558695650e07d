"""MLflow with two thousand trials, written by the real tracker and looked at in a real Chromium.

No clock is trusted alone: what a trial costs to write is counted in SQL statements and in steps of
SQLite's machine, and times are compared with those of the same page at a hundred trials.
"""

import json
import re
import shutil
import statistics
import time
import urllib.request
from collections import Counter

import pytest
from local_server import mlflow_server
from mlflow import MlflowClient
from playwright.sync_api import sync_playwright
from sqlalchemy import event
from sqlalchemy.engine import Engine

from vpetl_ray.results.front import front_of
from vpetl_ray.results.tracking import Tracker, TrackingInfo
from vpetl_ray.results.tracking_uri import store_in

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
FEW, MANY = 100, 2000
STEPS_A_TICK = 20
REPEATS = 9
SLOW_PAGE_MS = 120_000


class WritingCost:
    """Counts what SQLite is asked for, trial by trial: a new one begins with its run."""

    def __init__(self):
        self.statements, self.ticks = [0], [0]
        event.listen(Engine, "connect", self._connected)
        event.listen(Engine, "before_cursor_execute", self._asked)

    def close(self):
        event.remove(Engine, "connect", self._connected)
        event.remove(Engine, "before_cursor_execute", self._asked)

    def _connected(self, connection, _):
        connection.set_progress_handler(self._tick, STEPS_A_TICK)

    def _tick(self):
        self.ticks[-1] += 1
        return 0

    def _asked(self, _connection, _cursor, statement, *_):
        if statement.startswith("INSERT INTO runs "):
            self.statements.append(0)
            self.ticks.append(0)
        self.statements[-1] += 1

    @property
    def num_runs(self):
        return len(self.statements) - 1


def accuracy(number):
    """Spread over the plane, so that the front has a dozen members."""
    params = 1000 + (number * 7919) % 60_000
    noise = (number * 104_729) % 997 / 997
    return params, 40 + 45 * (params / 61_000) ** 0.3 * (0.6 + 0.4 * noise)


class GrowingSearch:
    """A search that tells MLflow of one trial after the other, as a running one does."""

    def __init__(self, directory, make_record, cost):
        uri, artifacts = store_in(directory)
        self._make_record, self._cost = make_record, cost
        self._adapter = directory / "adapter.safetensors"
        self._adapter.write_bytes(b"weights")
        self.records, self.front = [], []
        columns = ("petl.patt.targets", "petl.patt.d_bottle", "training.learning_rate")
        self.tracker = Tracker(
            TrackingInfo(
                search_id="large", name="large", uri=uri, artifact_location=artifacts,
                experiment="large", spec_text="name: large\n", columns=columns,
            )
        )  # fmt: skip
        self.tracker.start()

    def grow(self, number):
        while len(self.records) < number:
            index = len(self.records)
            params, top1 = accuracy(index)
            record = self._make_record(index, params, top1, test_top1=top1 - 1)
            self.records.append(record)
            front = front_of([*self.front, record])
            self.tracker.log_trial(record, self._adapter)
            if front != self.front:
                self.front = front
                self.tracker.update_front(front, note=f"Front of {len(front)}.\n\nMore.")
            while self._cost.num_runs < len(self.records) + 1:  # and the search's own
                time.sleep(0.001)


class Looker:
    """Opens the pages that the description of the search's run links to."""

    def __init__(self, browser, uri):
        self._browser, self._uri = browser, uri
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("large").experiment_id
        query = "tags.`vpetl.search_id` = 'large'"
        [parent] = client.search_runs([experiment], query, max_results=1)
        note = parent.data.tags["mlflow.note.content"]
        self.links = dict(re.findall(r"\[([^]]+)\]\((#[^)]+)\)", note))

    def open(self, link, wait_for):
        """Give the queries for runs that the page sends, and what is shown."""
        page = self._browser.new_page(viewport={"width": 1500, "height": 1400})
        page.set_default_timeout(SLOW_PAGE_MS)
        queries = []

        def note(request):
            if request.url.endswith("runs/search"):
                queries.append((request.url, request.post_data))

        page.on("requestfinished", note)
        page.goto(f"{self._uri}/{self.links[link]}")
        page.locator(wait_for).first.wait_for()
        page.wait_for_timeout(3000)  # later queries, if there are any
        shown = page.locator(".ag-row a[href*='/runs/']").all_inner_texts()
        page.close()
        return queries, [text.split()[0] for text in shown if text.strip()]

    def ask(self, query):
        """Give the runs and the seconds of a query of the page, the best of several."""
        address, body = query
        seconds = []
        for _ in range(REPEATS):
            request = urllib.request.Request(
                address, data=body.encode(), headers={"Content-Type": "application/json"}
            )
            start = time.perf_counter()
            with urllib.request.urlopen(request, timeout=120) as answer:
                found = json.loads(answer.read()).get("runs", [])
            seconds.append(time.perf_counter() - start)
        return found, min(seconds)


def look(browser, uri, search):
    """Open the pages; check what is shown, and say what it took."""
    looker = Looker(browser, uri)
    queries, shown = looker.open("the front", ".ag-row a[href*='/runs/']")
    assert set(shown) == {record.id for record in search.front}
    figures = {"front members": len(search.front), "queries of the front's page": len(queries)}
    runs, seconds = looker.ask(queries[0])
    assert {run["data"]["tags"][0]["key"] for run in runs}
    assert len(runs) <= len(search.front) + 1
    figures["ms of the front's query"] = 1e3 * seconds
    queries, shown = looker.open("all trials", ".ag-row a[href*='/runs/']")
    assert shown
    figures["queries of the page of all"] = len(queries)
    runs, seconds = looker.ask(queries[0])
    figures["runs that it asks for at a time"] = len(runs)
    figures["ms of its query"] = 1e3 * seconds
    queries, _ = looker.open("accuracy against parameters", ".js-plotly-plot")
    figures["queries of the chart's page"] = len(queries)
    return figures


def test_the_page_and_the_writing_stay_as_quick(make_record, tmp_path, capsys):
    cost = WritingCost()
    search = GrowingSearch(tmp_path, make_record, cost)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            search.grow(FEW)
            with mlflow_server(tmp_path / "mlflow.db", tmp_path) as uri:
                few = look(browser, uri, search)
                start = time.perf_counter()
                search.grow(MANY)
                seconds = time.perf_counter() - start
                many = look(browser, uri, search)
            browser.close()
        report = search.tracker.finish("FINISHED", timeout=120)
    finally:
        cost.close()
    assert (report.delivered, report.is_complete) == (MANY, True)
    early, late = slice(20, FEW), slice(MANY - FEW, MANY)
    statements = [statistics.median(cost.statements[part]) for part in (early, late)]
    steps = [STEPS_A_TICK * statistics.median(cost.ticks[part]) for part in (early, late)]
    with capsys.disabled():
        print(f"\nSQL statements a trial: {statements}, SQLite's steps: {steps}")
        print(f"most common statements: {Counter(cost.statements[late]).most_common(3)}")
        print(f"{1e3 * seconds / (MANY - FEW):.0f} ms a trial to write")
        for name in few:
            print(f"{name}: {few[name]:.4g} at {FEW} trials, {many[name]:.4g} at {MANY}")
    assert statements[0] == statements[1]
    assert steps[1] < 1.5 * steps[0]
    for page in ("the front's page", "the page of all", "the chart's page"):
        assert many[f"queries of {page}"] <= few[f"queries of {page}"] + 1
    assert many["runs that it asks for at a time"] <= 100
    for query in ("ms of the front's query", "ms of its query"):
        assert many[query] < MANY / FEW * few[query] / 2, "much less than in proportion"
