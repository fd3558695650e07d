"""Take the pictures in docs/screenshots: MLflow's pages, the report, the terminal.

    python docs/make_screenshots.py runs/position_scale

of a search that is over. It takes Debian's Chromium and playwright, and serves the search's own
MLflow store on loopback meanwhile.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient
from playwright.sync_api import BrowserContext, Page, sync_playwright
from rich.console import Console

from vpetl_ray.console import SearchDisplay
from vpetl_ray.results.search_folder import SearchFolder, read_search

OUT = Path(__file__).parent / "screenshots"
SECONDS_TO_START = 120
TIME_TO_SETTLE_MS = 2500
SLOW_PAGE_MS = 120_000
CHARTS_MS = 8_000


def main() -> None:
    """Take all of them."""
    search = read_search(Path(sys.argv[1]).absolute())
    OUT.mkdir(exist_ok=True)
    with sync_playwright() as playwright, mlflow_server(search.path) as uri:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        browser = launched.new_context()
        browser.set_default_timeout(SLOW_PAGE_MS)
        report(browser, search.path)
        mlflow_pages(browser, uri, search)
        terminal(browser, search)
        launched.close()


def report(browser: BrowserContext, directory: Path) -> None:
    """Take the upper part of the search's page."""
    page = browser.new_page()
    page.set_viewport_size({"width": 1100, "height": 1000})
    page.goto((directory / "report.html").as_uri())
    page.wait_for_timeout(TIME_TO_SETTLE_MS)
    page.screenshot(path=OUT / "report.png")


def mlflow_pages(browser: BrowserContext, uri: str, search: SearchFolder) -> None:
    """Take the front as a table, the trials as a chart, and a version with its card."""
    name = search.facts.name
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias(name, "knee")
    parent = client.get_run(version.run_id).data.tags["mlflow.parentRunId"]
    experiment = client.get_run(parent).info.experiment_id
    page = browser.new_page()
    page.set_viewport_size({"width": 1300, "height": 800})
    view = f"{uri}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey="
    page.goto(f"{view}{parent}-front")
    _close_assistant(page)
    _take(page, "mlflow_front")
    page.goto(f"{view}{parent}-chart&compareRunsMode=CHART")
    page.wait_for_timeout(CHARTS_MS)
    _take(page, "mlflow_chart")
    page.goto(f"{uri}/#/models/{name}/versions/{version.version}")
    _take(page, "mlflow_version")


def terminal(browser: BrowserContext, search: SearchFolder) -> None:
    """Take the live table as it was in the middle of the search, in 80 columns."""
    now = [0.0]
    display = SearchDisplay(Console(quiet=True), name=search.facts.name, clock=lambda: now[0])
    display.begin((), 2, len(search.records))
    display.on_start("running", 0, None)
    for record in search.records[: max(1, len(search.records) // 2)]:
        now[0] = record.at_seconds or 0.0
        display.on_record(replace(record, test_top1=None))
    console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True)
    console.print(display._render())
    page = browser.new_page()
    page.set_viewport_size({"width": 790, "height": 300})
    page.set_content(console.export_html(inline_styles=True))
    page.add_style_tag(content="pre { padding: 12px; }")
    page.locator("pre").screenshot(path=OUT / "terminal.png")


def _close_assistant(page: Page) -> None:
    page.get_by_test_id("search-box").wait_for()
    button = page.get_by_role("button", name="Close").first
    if button.is_visible():
        button.click()


def _take(page: Page, name: str) -> None:
    page.wait_for_timeout(TIME_TO_SETTLE_MS)
    page.screenshot(path=OUT / f"{name}.png")


@contextmanager
def mlflow_server(directory: Path) -> Iterator[str]:
    """Serve a search's MLflow store on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(SECONDS_TO_START):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()  # noqa: S310 - loopback
            except (urllib.error.URLError, OSError):
                time.sleep(1)
            else:
                break
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: it starts helpers
        process.wait()


if __name__ == "__main__":
    main()
