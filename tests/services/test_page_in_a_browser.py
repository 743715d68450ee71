"""The service's page in a real browser: one image, and several of one patient."""

import shutil

import pytest

from tests.services import drawn_files as drawn

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def page(served):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.errors = []
        opened.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.goto(served.url)
        yield opened
        browser.close()


def files(*seeds):
    return [
        {"name": f"{seed}.dcm", "mimeType": "", "buffer": drawn.dicom(drawn.fundus(seed, 320))}
        for seed in seeds
    ]


def choose(page, chosen):
    page.set_input_files("#file", chosen)
    page.wait_for_selector("#answer[aria-busy=false] .verdict")


def test_one_image_is_shown_with_its_evidence(page):
    choose(page, files(1))
    assert page.locator("#answer .verdict").count() == 1
    assert page.locator("#answer h3").first.inner_text() == "Findings"
    assert page.locator("#map option").count() == 2
    assert page.locator("#picture").get_attribute("src").startswith("data:image/png")
    assert page.errors == []


def test_several_images_are_one_patient_each_with_its_own_picture(page):
    choose(page, files(1, 2, 3))
    assert page.locator("#answer h3").first.inner_text() == "Patient"
    assert "left" in page.locator("#answer dl").first.inner_text()
    assert page.locator("#answer .verdict").count() == 2  # the patient's and the shown image's
    first = page.locator("#picture").get_attribute("src")
    page.locator("#answer select").select_option("2")
    page.wait_for_function("src => document.getElementById('picture').src !== src", arg=first)
    assert page.locator("#picture").get_attribute("src").startswith("data:image/png")
    assert page.errors == []


def test_a_refused_file_is_explained(page):
    choose(page, [*files(1), {"name": "x", "mimeType": "", "buffer": b"a letter"}])
    assert "Image 2 of 2" in page.locator("#answer").inner_text()
