"""Text-like rows of marks are found in real pictures; eyes, bones and side markers are none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from data_schemas.contract import Accept, Contract
from pipeline.imaging.picture import picture
from pipeline.imaging.read import read
from pipeline.imaging.text import text_lines

ROOT = Path(__file__).parents[2]
WORDS = ("DOE^JANE 1961", "ID 4711-0815", "12.03.1961 14:22", "Smith, Anna")


def written(array, words, size, place, colour=None):
    canvas = Image.fromarray(array)
    font = ImageFont.load_default(size)
    box = ImageDraw.Draw(canvas).textbbox(place, words, font=font)
    if colour is None:
        ground = array[box[1] : box[3], box[0] : box[2]].mean()
        colour = (255, 255, 255) if ground < 110 else (0, 0, 0)
    ImageDraw.Draw(canvas).text(place, words, font=font, fill=colour)
    return np.array(canvas)


def shared(kind, name):
    path = ROOT / "../shared/data" / kind / name
    if not path.is_file():
        pytest.skip(f"needs ../shared/data/{kind}")
    return path


def shown(name):
    contract = Contract(name="x", size=4096, accept=Accept(frames="first"))
    return picture(read(shared("dicom", f"{name}.dcm").read_bytes(), contract))


@pytest.mark.needs_shared
@pytest.mark.parametrize("size", [12, 16, 24, 40])
@pytest.mark.parametrize("words", WORDS)
def test_text_on_a_fundus_photograph_is_found(words, size):
    with Image.open(shared("fundus_rahim", "images/Patient001_L.jpg")) as photograph:
        pixels = np.array(photograph.convert("RGB"))
    assert text_lines(pixels) == ()
    for place in ((4, 4), (250, 220)):
        assert text_lines(written(pixels, words, size, place))
        assert text_lines(written(pixels, words, size, place, (255, 255, 0)))


@pytest.mark.needs_shared
@pytest.mark.parametrize("size", [24, 64])
def test_text_on_a_radiograph_is_found(size):
    pixels = shown("469e8b7e4f21")
    assert text_lines(pixels) == ()
    assert text_lines(written(pixels, WORDS[0], size, (500, 60)))


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", ["e20c4ba29df1", "22340375674f", "654df0779faf"])
def test_real_annotations_are_found(name):
    lines = text_lines(shown(name))
    assert lines
    assert max(line.marks for line in lines) >= 4


@pytest.mark.needs_shared
@pytest.mark.parametrize("mark", ["L", "R", "AP", "L1"])
def test_a_side_marker_is_no_text(mark):
    assert text_lines(written(shown("469e8b7e4f21"), mark, 64, (700, 80))) == ()


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", ["fc513c8342a1", "5d38cc99dbd0", "fa4b62ab3535", "857c229fd4b1"])
def test_bones_breasts_and_eyes_are_no_text(name):
    assert text_lines(shown(name)) == ()


@pytest.mark.needs_shared
def test_no_alarm_on_fundus_photographs():
    """Every 30th of 600; all 600 were measured, see docs/deidentify.md."""
    folder = shared("fundus_rahim", "labels.csv").parent / "images"
    alarms = []
    for path in sorted(folder.iterdir())[::30]:
        with Image.open(path) as photograph:
            if text_lines(np.array(photograph.convert("RGB"))):
                alarms.append(path.name)
    assert alarms == []


def test_the_place_of_a_line_is_right():
    blank = np.zeros((200, 400, 3), np.uint8)
    (line, *_) = text_lines(written(blank, "Zwanzigmann", 20, (100, 60)))
    assert 95 <= line.left <= 105
    assert 60 <= line.top <= 75
    assert line.marks >= 8


def test_upright_text_and_dark_text_are_found():
    grey = np.full((300, 300, 3), 150, np.uint8)
    dark = written(grey, "Quirina 1947", 18, (20, 20), (0, 0, 0))
    assert text_lines(dark)
    assert text_lines(np.ascontiguousarray(np.rot90(dark)))


def test_rulers_and_empty_pictures_are_no_text():
    ruler = np.zeros((200, 400, 3), np.uint8)
    ruler[100:110, 20:380:12] = 255
    assert text_lines(ruler) == ()
    assert text_lines(np.zeros((5, 5, 3), np.uint8)) == ()
    assert text_lines(np.full((80, 80, 3), 200, np.uint8)) == ()
