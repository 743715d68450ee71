"""The page of `hilum look` in a real browser, and the command around it."""

import shutil

import numpy as np
import pytest

from data_schemas.plan import Learning, NetworkPlan, Plan
from pipeline.tracking import store
from pipeline.train import run as training
from pipeline.train.look.show import show
from pipeline.train.world import open_world
from services.cli import main as door
from tests.train.test_look import image_file, package_of, tree_of, unpack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("look")
    page = folder / "look.html"
    page.write_text(show(package_of(folder / "p"), None, image_file(folder), None).html)
    return page, tree_of(page.read_text())


@pytest.fixture
def view(shown):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.heard = []
        tab.on("console", lambda message: tab.heard.append(message.text))
        tab.on("pageerror", lambda error: tab.heard.append(str(error)))
        tab.on(
            "request",
            lambda request: (
                tab.heard.append(request.url)
                if not request.url.startswith(("file:", "data:"))
                else None
            ),
        )
        tab.goto(shown[0].as_uri())
        tab.wait_for_selector("html[data-ready]")
        yield tab
        assert tab.heard == [], "the page complains, or asks for something"
        browser.close()


@needs_browser
def test_the_loupe_shows_the_numbers_under_it_and_moves(view, shown):
    image = shown[1]["image"]
    values = unpack(image["values"], np.uint8, (28, 28, 3))

    def numbers(channel):
        cells = view.locator("#values table").nth(channel).locator("td").all_inner_texts()
        return np.array(cells, int).reshape(8, 8)

    row, column = image["best"]
    for channel in range(3):
        np.testing.assert_array_equal(
            numbers(channel), values[row : row + 8, column : column + 8, channel]
        )
    view.locator("#loupe").focus()
    view.keyboard.press("ArrowDown" if row < 20 else "ArrowUp")
    row += 1 if row < 20 else -1
    np.testing.assert_array_equal(numbers(1), values[row : row + 8, column : column + 8, 1])
    box = view.locator("#loupe").bounding_box()
    view.mouse.click(box["x"] + 2, box["y"] + 2)
    np.testing.assert_array_equal(numbers(2), values[:8, :8, 2])


@needs_browser
def test_filter_and_place_change_the_sum_and_it_is_the_networks(view, shown):
    seen = set()
    for which in shown[1]["first"]["kept"][:4]:
        view.select_option("#filter", str(which))
        for move in ("one step right", "one step down"):
            view.get_by_role("button", name=move).click()
            assert view.locator("#total .ok").count() == 1
            assert view.locator("#total .bad").count() == 0
            seen.add(view.inner_text("#result"))
    assert len(seen) > 4
    before = view.inner_text("#result")
    view.select_option("#filter", "-1")
    assert view.inner_text("#result") != before
    assert "your own filter" in view.inner_text("#total")
    view.locator("#gallery button").nth(3).click()
    assert view.input_value("#filter") == view.locator("#gallery button").nth(3).get_attribute(
        "data-filter"
    )


@needs_browser
def test_a_unit_shows_its_own_receptive_field(view, shown):
    levels = shown[1]["field"]["stages"]
    view.locator("#levels button").nth(0).click()
    for which in (0, len(levels[0]["units"]) - 1):
        view.locator(f"#units [data-unit='{which}']").click()
        unit = levels[0]["units"][which]
        style = view.locator("#units .box").get_attribute("style")
        assert f"top: {100 * unit['box'][0] / 28:.3f}"[:9] in style
        assert f"row {unit['row']}, column {unit['column']}" in view.inner_text("#unit-says")
    view.locator("#levels button").last.click()
    assert "where the evidence is strongest" in view.inner_text("#unit-says")


@needs_browser
def test_the_arithmetic_follows_the_chosen_question(view, shown):
    answer = shown[1]["answer"]
    for place, output in enumerate(answer["outputs"]):
        view.select_option("#output", str(place))
        assert view.locator("#steps .ok").count() == 2
        assert view.locator("#steps .bad").count() == 0
        assert view.inner_text("#probability") == f"{output['positive']:.3f}"
        cells = view.locator("#cells > span")
        assert cells.count() == np.size(output["columns"][0]["cells"])
    view.locator("#cells").focus()
    before = view.inner_text("#cell-says")
    view.keyboard.press("ArrowUp")
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("ArrowDown")
    view.keyboard.press("ArrowDown")
    assert view.inner_text("#cell-says") != before


@needs_browser
def test_it_fits_a_phone_and_every_picture_has_a_name(view):
    view.set_viewport_size({"width": 360, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") == 360
    unnamed = "[...document.images].filter(i => !i.hasAttribute('alt') || !i.complete || !i.naturalWidth).length"
    assert view.evaluate(unnamed) == 0
    nameless = "[...document.querySelectorAll('button, select, [role=application]')].filter(b => !(b.textContent.trim() || b.ariaLabel || b.labels?.length)).length"
    assert view.evaluate(nameless) == 0


def test_the_command_fetches_a_run_logs_only_when_asked_and_never_neighbours(
    memory_set, mlflow_uri, tmp_path, monkeypatch, capsys
):
    dataset = memory_set(n=60, size=16)
    plan = Plan(
        network=NetworkPlan(backbone="convnet", stride=8),
        learning=Learning(epochs=1, batch=16),
        threads=1,
    )
    world = open_world(plan.device, plan.threads, plan.seed)
    place = training.Place(mlflow_uri, "tests", "tiny")
    trained = training.train(dataset, plan, place, world, lambda *_: None, lambda _: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    file = str(image_file(tmp_path))
    client = store.open_client(mlflow_uri)
    assert door.main(["look", trained.run_id, file, "--out", "a.html"]) == 0
    assert tree_of((tmp_path / "a.html").read_text())["model"]["run"] == trained.run_id
    assert not client.list_artifacts(trained.run_id, "look")
    # its data set is no folder
    assert door.main(["look", trained.run_id]) == 2
    assert "hilum look" in capsys.readouterr().err
    assert door.main(["look", trained.run_id, file, "--log", "--neighbours", "3"]) == 2
    assert not client.list_artifacts(trained.run_id, "look")
    assert door.main(["look", trained.run_id, file, "--log"]) == 0
    (logged,) = client.list_artifacts(trained.run_id, "look")
    assert logged.path.startswith("look/image-")
    assert "Meier" not in logged.path
    assert client.get_run(trained.run_id).info.status == "FINISHED"


def test_the_command_refuses_what_is_neither_run_nor_folder(mlflow_uri, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert door.main(["look", "nowhere/package", "x.png"]) == 2
    assert "no such package folder" in capsys.readouterr().err
    assert door.main(["look", "x", "--neighbours", "99"]) == 2
