"""What a reviewer sees: a real run on a real MLflow server, opened in a real browser at 1440 x 900.

`make docs-shots` runs these tests on a larger cohort and keeps the pictures in docs/pictures.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_schemas import settings
from data_schemas.contract import Contract
from data_schemas.plan import Plan
from data_schemas.progress import silent
from pipeline.demo.cohort import draw_cohort
from pipeline.evaluate.evaluate import evaluate_run
from pipeline.evaluate.final import final_package
from pipeline.evaluate.review import QUESTIONS
from pipeline.ingest.ingest import Options, ingest
from pipeline.ingest.store import open_dataset
from pipeline.tracking import endings, shown
from pipeline.tracking.registry import register
from pipeline.tracking.store import open_client
from pipeline.train.run import Place, train
from pipeline.train.world import open_world

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREEN = {"width": 1440, "height": 900}
KEPT = os.environ.get("HILUM_SHOTS", "")
PATIENTS, EPOCHS = (160, 14) if KEPT else (40, 2)
MOST_BYTES = 200_000
QUIET = (
    'try{localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1","true")}catch(e){}'
)
"""MLflow opens its assistant at the first visit of a server on one's own machine; a reviewer closes it."""
PLAIN = """pairs => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  for (let node = walk.nextNode(); node; node = walk.nextNode())
    for (const [from, to] of pairs) node.textContent = node.textContent.replaceAll(from, to)
}"""
DRAWN = """[...document.querySelectorAll('.js-plotly-plot')]
  .flatMap(chart => chart.data ?? [])
  .map(line => [...(line.y ?? [])].filter(Number.isFinite).length)"""
"""How many points each line of each chart on the page has."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@dataclass(frozen=True)
class Seen:
    """The server, and what was made on it."""

    url: str
    experiment: str
    run_id: str
    version: str
    folder: Path
    base: Path

    def page(self, path):
        mark = "&" if "?" in path else "?"
        return f"{self.url}/#/experiments/{self.experiment}{path}{mark}{shown.WORKFLOW}"


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _answers(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310 - our own
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory, migrated_store):
    base = tmp_path_factory.mktemp("server")
    shutil.copyfile(migrated_store, base / "mlflow.db")
    port = _free_port()
    words = ["-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{base / 'mlflow.db'}"]
    words += ["--artifacts-destination", str(base / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (base / "log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, *words],
            cwd=base,
            env={**os.environ, **quiet, "DO_NOT_TRACK": "true"},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while not _answers(url):
            assert child.poll() is None, (base / "log").read_text()
            assert time.monotonic() < end, "the MLflow server doesn't answer"
            time.sleep(0.3)
        yield url
    finally:
        child.terminate()
        child.wait(20)


@pytest.fixture(scope="module")
def seen(server, tmp_path_factory):
    """A phantom cohort, ingested, learned, measured, registered: the same road as on real images."""
    base = tmp_path_factory.mktemp("road")
    draw_cohort(base / "cohort", patients=PATIENTS, seed=5, workers=1)
    preset = settings.from_file(Path("configs/contracts/fundus.yaml").absolute())
    size = 112 if KEPT else 56
    contract = settings.resolve(Contract, [preset, settings.Layer({"size": size})])
    labels = base / "cohort" / "labels.csv"
    out = base / "phantoms"
    source = base / "cohort" / "archive"
    options = Options(name="phantoms")
    ingest(source, labels, out, contract, key=b"k" * 32, progress=silent, options=options)
    plan = Plan.model_validate(
        {
            "labels": ("referable",),
            "network": {"backbone": "lesion_net" if KEPT else "convnet", "stride": 8},
            "learning": {"epochs": EPOCHS, "batch": 16, "rate": 3e-3, "head_rate": 8.0},
            "operating": {"rule": "youden"},
            "threads": 1,
        }
    )
    dataset = open_dataset(out)
    world = open_world("cpu", 1, 0)
    place = Place(server, "phantoms", "", base / "state")
    run_id = train(dataset, plan, place, world, silent, lambda _: None).run_id
    evaluate_run(run_id, out, server, silent)
    package = final_package(run_id, server, base / "final", name="phantoms")
    version = register(server, run_id, package.folder, "phantoms", "champion")
    home = open_client(server).get_run(run_id).info.experiment_id
    folder = Path(KEPT or tempfile.mkdtemp(dir=base)).absolute()
    folder.mkdir(exist_ok=True)
    return Seen(server, home, run_id, version, folder, base)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as player:
        opened = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def view(browser, server):
    page = browser.new_page(viewport=SCREEN)
    page.add_init_script(QUIET)
    page.set_default_timeout(20_000)
    outside = []
    page.on("request", lambda one: outside.append(one.url) if _leaves(one.url, server) else None)
    yield page
    page.close()
    assert not outside, "the page asks for something outside this machine"


def _leaves(url, server):
    return url.partition(":")[0] in ("http", "https") and not url.startswith(server)


def _keep(seen, view, name):
    """Keep what is on the screen as a small PNG; return it as pixels."""
    view.wait_for_timeout(1200)  # charts are drawn after their data have come
    # no word of the machine on which the picture was taken
    view.evaluate(PLAIN, [[str(seen.base), "/data"], [endings.host(), "workstation"]])
    picture = Image.open(BytesIO(view.screenshot())).convert("RGB")
    small = picture.quantize(128, dither=Image.Dither.NONE)
    small.save(seen.folder / f"{name}.png", optimize=True)
    assert (seen.folder / f"{name}.png").stat().st_size <= MOST_BYTES
    return np.asarray(picture)


def _inside(box, below=0.0):
    assert box is not None
    across = box["x"] >= 0 and box["x"] + box["width"] <= SCREEN["width"]
    return across and below <= box["y"] and box["y"] + box["height"] <= SCREEN["height"]


def test_five_answers_stand_on_the_first_screen(seen, view):
    view.goto(seen.page(f"/runs/{seen.run_id}"))
    first = view.get_by_text(QUESTIONS[0], exact=True)
    first.wait_for()
    tops = []
    for question in QUESTIONS:
        found = view.get_by_text(question, exact=True)
        assert found.count() == 1
        assert _inside(found.bounding_box()), question
        tops.append(found.bounding_box()["y"])
    # in the order of reading, each on one line of its own, none folded away
    assert tops == sorted(tops)
    assert max(np.diff(tops)) < 25
    assert view.get_by_text("Show more").count() == 0
    whole = first.evaluate("e => e.parentElement.getBoundingClientRect().bottom")
    assert whole <= SCREEN["height"]
    text = first.evaluate("e => e.parentElement.innerText")
    good, sure, whom, data, wrong = text.splitlines()
    assert "AUC 0." in good or "AUC 1." in good
    assert "sensitivity" in good
    assert "specificity" in good
    assert "(" in good and "/" in good  # noqa: PT018 - an interval with its counts
    assert "95 %" in sure
    assert "ECE" in sure
    assert "unseen patients" in whom
    assert "refused" in whom
    assert "phantoms" in data
    assert "leaks" in data
    assert "missed" in wrong
    assert "false alarm" in wrong
    assert view.get_by_role("heading", name="referable").bounding_box()["y"] < 150
    _keep(seen, view, "run")
    view.get_by_role("link", name="Details").evaluate("e => { e.target = '' }")
    view.get_by_role("link", name="Details").click()
    frame = view.frame_locator("iframe")
    frame.get_by_text("On which data?").wait_for()
    _keep(seen, view, "review")
    assert frame.get_by_text("Every mistake").count() == 1


def test_the_list_explains_itself_and_has_a_view_for_reviewers(seen, view):
    view.goto(seen.page(f"/runs?viewStateShareKey={shown.VIEW.rpartition('.')[2]}"))
    view.get_by_text("How to read this list.").wait_for()
    view.get_by_text("referable").first.wait_for()
    for column in ("test/auc", "test/auc_lo", "test/auc_hi", "test/sensitivity"):
        assert _inside(view.get_by_text(column, exact=True).first.bounding_box()), column
    assert view.get_by_text("train/grad_norm").count() == 0
    _keep(seen, view, "list")


def test_charts_draw_lines_and_bars(seen, view):
    view.goto(seen.page(f"/runs/{seen.run_id}/model-metrics"))
    search = view.get_by_placeholder("Search metric charts")
    search.wait_for()
    sections = view.get_by_test_id("experiment-view-compare-runs-section-header")
    sections.first.wait_for()
    names = [text.splitlines()[0] for text in sections.all_inner_texts()]
    assert {"best", "calibration", "test", "train", "tune"} <= set(names)
    search.fill("tune/")
    # charts are drawn once they are on the screen
    view.wait_for_function(f"() => ({DRAWN}).filter(points => points >= 2).length >= 2")
    assert view.get_by_text("No data").count() == 0
    _keep(seen, view, "charts")
    search.fill("test/auc")
    bars = view.locator(".js-plotly-plot .barlayer .point")
    bars.first.wait_for(state="attached")
    assert bars.count() >= 3


def test_pictures_and_tables_show_something(seen, view):
    view.goto(seen.page(f"/runs/{seen.run_id}/model-metrics"))
    view.get_by_placeholder("Search metric charts").fill("worst")
    picture = view.locator("img[src*='get-artifact'], img[src^='blob:']").first
    picture.wait_for(state="attached")
    view.wait_for_function(
        "() => [...document.querySelectorAll('img')].some(i => i.naturalWidth > 200)"
    )
    for name, word in (("mistakes", "verdict"), ("subgroups", "laterality: L")):
        view.goto("about:blank")
        view.goto(seen.page(f"/runs/{seen.run_id}/artifacts/eval/{name}.json"))
        view.get_by_text("View as table").wait_for()
        view.get_by_text(word, exact=True).first.wait_for()
        assert view.get_by_text(word, exact=True).first.is_visible()
    _keep(seen, view, "subgroups")


def test_pictures_of_mistakes_open_as_artifacts(seen, view):
    files = [one.path for one in open_client(seen.url).list_artifacts(seen.run_id, "images")]
    shown_of = [path for path in files if "/worst_" in path and path.endswith(".png")]
    assert shown_of
    best = next((path for path in shown_of if "_test+" in path), shown_of[0])
    view.goto(seen.page(f"/runs/{seen.run_id}/artifacts/images"))
    view.get_by_text(Path(best).name[:24]).last.click()
    view.wait_for_function(
        "() => [...document.querySelectorAll('img')].some(i => i.naturalWidth > 200)"
    )
    _keep(seen, view, "mistakes_picture")


def test_the_model_page_shows_version_answers_and_figures(seen, view):
    view.goto(f"{seen.url}/#/models/phantoms/versions/{seen.version}?{shown.WORKFLOW}")
    view.get_by_text(f"Version {seen.version}").first.wait_for()
    view.get_by_text("champion").first.wait_for()
    assert view.get_by_text(QUESTIONS[0], exact=True).count() == 1
    _keep(seen, view, "version")
    view.get_by_role("link", name="referable-").click()
    view.get_by_text("test/auc", exact=True).first.wait_for()
    view.wait_for_url("**/models/m-*")
    view.goto(f"{view.url.partition('?')[0]}?{shown.WORKFLOW}")
    view.get_by_text("phantoms-test").first.wait_for()
    assert view.get_by_text(QUESTIONS[0], exact=True).count() == 1
    _keep(seen, view, "model")
