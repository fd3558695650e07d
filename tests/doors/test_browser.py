"""What a person sees: MLflow's own pages and the report, in a real browser.

Real `mlflow server`, real Chromium. Without Chromium these tests are skipped; `.ci/run` gets it.
"""

import json
import shutil

import pytest
from local_server import mlflow_server
from mlflow import MlflowClient
from playwright.sync_api import sync_playwright

import vpetl_ray
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ViewSpec
from vpetl_ray.inference.find import read_front
from vpetl_ray.results.search_folder import read_search
from vpetl_ray.results.search_page import write_search_page
from vpetl_ray.training.evaluation import evaluate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
SLOW_PAGE_MS = 60_000
TIME_TO_DRAW_MS = 1_000


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(search, tmp_path_factory):
    """Serve a search's store, as the command does that the search printed."""
    with mlflow_server(search / "mlflow.db", tmp_path_factory.mktemp("server")) as uri:
        yield uri


def is_of_the_front(response):
    return response.url.endswith("runs/search") and "pareto" in (response.request.post_data or "")


def test_from_the_experiment_to_a_label(browser, server, search, videos, cache, run):
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("vpetl_ray")
    front = read_front(search)
    chosen = front[-1]
    page = browser.new_page(viewport={"width": 1500, "height": 900})
    page.set_default_timeout(SLOW_PAGE_MS)

    # Opens the experiment, filters the front, opens a run.
    address = f"{server}/#/experiments/{experiment.experiment_id}/runs"
    page.goto(f"{address}?workflowType=machine_learning")
    box = page.get_by_test_id("search-box")
    box.fill("tags.pareto = 'true'")
    with page.expect_response(is_of_the_front):  # until then all trials are shown
        box.press("Enter")
    page.wait_for_timeout(TIME_TO_DRAW_MS)
    page.locator(".ag-row").first.locator("button").first.click()  # unfolds the search
    links = page.locator(".ag-row a[href*='/runs/']")
    links.filter(has_text=chosen["id"]).wait_for()
    shown = {text.split()[0] for text in links.all_inner_texts()}
    assert {text for text in shown if text.startswith("t0")} == {entry["id"] for entry in front}
    links.filter(has_text=chosen["id"]).click()
    page.get_by_role("heading", name=chosen["id"]).wait_for()
    assert "/runs/" in page.url

    # Sets an alias on its version.
    versions = client.search_model_versions("name = 'tiny'")
    version = next(v.version for v in versions if v.tags["trial"] == chosen["id"])
    page.goto(f"{server}/#/models/tiny/versions/{version}")
    page.get_by_title("Edit aliases").click()
    dialog = page.get_by_role("dialog").first
    dialog.locator("input").first.fill("shipped")
    dialog.locator("input").first.press("Enter")
    dialog.get_by_role("button", name="Save").click()
    page.get_by_text("shipped").first.wait_for()
    dialog.wait_for(state="hidden")
    assert client.get_model_version_by_alias("tiny", "shipped").version == version
    page.close()

    # Uses it by that name: the label is that of the search's own evaluation.
    model = vpetl_ray.load(f"{search}@{chosen['id']}", device="cpu")
    stores = [ClipStore.open(path) for path in (cache / "clips").iterdir() if path.is_dir()]
    store = next(s for s in stores if s.manifest.clip_spec.test_segments == 1)
    test = store.split("test", ViewSpec(size=32, train_crop="centre", flip=0))
    found = evaluate(model.attached.model, test, keep_predictions=True)
    assert found.top1 == chosen["test_top1"]
    for index in (0, len(test) - 1):
        done = run(
            "predict", "models:/tiny@shipped", videos / test.video(index), "--json",
            "--tracking-uri", server,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)["top"]
        assert max(told, key=told.get) == store.classes[found.predictions[index]]
    client.delete_registered_model_alias("tiny", "shipped")  # other tests see the same store


def open_page(browser, path):
    """Open a file without a network; give the page, what it asked for, and its complaints."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length > 0")
    return (
        page,
        [url for url in asked if not url.startswith(("file:", "data:", "blob:"))],
        complaints,
    )


def test_the_report_needs_no_network(browser, search):
    page, asked, complaints = open_page(browser, search / "report.html")
    charts = page.locator(".js-plotly-plot")
    assert charts.count() >= 4
    names = page.locator(".legendtext").all_text_contents()
    assert any(name.startswith("front (") for name in names)
    titles = page.locator(".xtitle, .ytitle").all_text_contents()
    assert "trainable parameters (log scale)" in titles
    assert "top-1 accuracy on validation (%)" in titles
    # What is under the pointer is told with its config.
    best = read_front(search)[-1]
    names = page.evaluate("document.getElementById('chart0').data.map(trace => trace.name || '')")
    curve = next(i for i, name in enumerate(names) if name.startswith("front ("))
    place = {"curveNumber": curve, "pointNumber": len(read_front(search)) - 1}
    page.evaluate(f"Plotly.Fx.hover('chart0', [{json.dumps(place)}])")
    told = page.locator("#chart0 .hoverlayer .hovertext").first.text_content()
    assert best["id"] in told
    assert f"{best['trainable_params']:,} parameters" in told
    for path, value in best["config"].items():
        if path.startswith("petl.") and value is not None and not path.endswith(".enabled"):
            assert f"{path.removeprefix('petl.')}: {value}" in told
    assert (asked, complaints) == ([], [])


def test_the_page_of_a_running_search_renews_itself(browser, search, tmp_path):
    found = read_search(search)
    write_search_page(tmp_path, found.facts, found.records[:1], is_running=True)
    page, _, complaints = open_page(browser, tmp_path / "report.html")
    assert "1 complete." in page.inner_text("body")
    write_search_page(tmp_path, found.facts, found.records, is_running=False)
    page.get_by_text(f"{len(found.records)} complete.").wait_for(timeout=30_000)
    assert complaints == []
