"""One road: what a file's bytes score is what the runtime says about the prepared array."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_schemas.errors import ImageError
from data_schemas.files import sha256
from data_schemas.score import Score
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.model import decision
from pipeline.model.overlay import overlay_png, reduced
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes
from tests.model import tiny_network as tiny

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


def _photograph(size=(180, 140), form="PNG", seed=0):
    generator = np.random.default_rng(seed)
    image = Image.fromarray(generator.integers(30, 60, (size[1], size[0], 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 10, 150, 130), fill=(180, 90, 40))
    draw.ellipse((60, 50, 75, 65), fill=(250, 230, 170))
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_score_equals_the_runtime_on_the_prepared_array(binary_package, form):
    data = _photograph(form=form)
    runtime = Runtime(binary_package)
    score = score_bytes(binary_package, runtime, data, version="7")
    prepared = prepare(read(data, binary_package.contract), binary_package.contract)
    logits = runtime.run(prepared.pixels[None]).logits[0]
    assert score.logits == tuple(map(float, logits))
    assert score.image.prepared_sha256 == sha256(prepared.pixels.tobytes())
    assert score.image.source_sha256 == sha256(data)
    assert (score.image.rows, score.image.columns) == (140, 180)
    assert score.model.package_sha256 == binary_package.sha256
    assert score.model.version == "7"
    assert score.evidence == ()
    wanted = decision.decide(binary_package.card, logits)
    assert (score.verdict, score.findings) == (wanted.verdict, wanted.findings)
    assert Score.from_tree(score.model_dump(mode="json"), where="test") == score


@pytest.mark.parametrize("name", ["binary_package", "grades_package"])
def test_evidence_sums_to_the_logit_and_is_drawn_on_the_picture(request, name):
    package = request.getfixturevalue(name)
    score = score_bytes(package, Runtime(package), _photograph(), evidence=True)
    assert [found.label for found in score.evidence] == [o.label for o in package.card.outputs]
    for found in score.evidence:
        output = decision.output_of(package.card, found.label)
        column = output.columns[0 if len(output.columns) == 1 else found.class_index]
        assert found.logit == score.logits[column]
        assert np.mean(found.values) + found.bias == pytest.approx(found.logit, abs=1e-4)
        with Image.open(io.BytesIO(base64.b64decode(found.overlay_png))) as overlay:
            assert (overlay.size, overlay.mode) == ((360, 280), "RGB")
        top, left, height, width = found.region
        assert height == width == 180
        assert (top, left) == (-20, 0)


def test_grades_explain_the_most_probable_class(grades_package):
    score = score_bytes(grades_package, Runtime(grades_package), _photograph(), evidence=True)
    (found,) = score.evidence
    assert found.class_index == int(np.argmax(score.logits))
    named = score.probabilities["dr_grade"]
    assert max(named, key=named.get) == tiny.GRADES.classes[found.class_index]
    assert sum(named.values()) == pytest.approx(1)


def test_a_photograph_too_dark_to_judge_gets_no_answer(fundus_package):
    dark = Image.new("RGB", (200, 200))
    ImageDraw.Draw(dark).ellipse((10, 10, 190, 190), fill=(60, 30, 12))
    buffer = io.BytesIO()
    dark.save(buffer, "PNG")
    score = score_bytes(fundus_package, Runtime(fundus_package), buffer.getvalue(), evidence=True)
    assert score.verdict == "insufficient_quality"
    assert not score.quality.sufficient
    assert score.quality.reasons
    assert (score.probabilities, score.logits, score.evidence) == ({}, (), ())
    assert {(f.state, f.probability) for f in score.findings} == {("not_assessed", None)}


@pytest.mark.parametrize("data", [b"", b"not an image", _photograph()[:200]])
def test_what_is_no_image_is_refused_with_a_code(binary_package, data):
    with pytest.raises(ImageError) as caught:
        score_bytes(binary_package, Runtime(binary_package), data)
    assert caught.value.code in {"NOT_AN_IMAGE", "TRUNCATED", "CORRUPT"}


@pytest.mark.needs_shared
def test_real_photographs_and_a_ct_slice(fundus_package):
    folder = SHARED / "fundus_rahim/images"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/fundus_rahim")
    runtime = Runtime(fundus_package)
    for path in sorted(folder.glob("*.jpg"))[:3]:
        score = score_bytes(fundus_package, runtime, path.read_bytes(), evidence=True)
        assert score.verdict in {"positive", "negative", "indeterminate"}
        top, left, height, width = score.evidence[0].region
        # the field of view is cut off above and below: the square reaches outside the picture
        assert top < 0 < left
        assert height == width < score.image.columns


def test_overlay_keeps_the_picture_where_there_is_no_evidence():
    picture = np.full((60, 80, 3), 90, np.uint8)
    values = np.zeros((4, 4), np.float32)
    values[1, 1] = 2.0
    values[3, 3] = -2.0
    data = overlay_png(picture, values, (-10, 0, 80, 80), unit=2.0)
    drawn = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert drawn.shape == (360, 480, 3)  # enlarged six times
    drawn = drawn[3::6, 3::6]
    warm, cold, still = drawn[20, 30], drawn[58, 70], drawn[20, 70]
    assert warm[0] > warm[2] + 40
    assert cold[2] > cold[0] + 40
    assert still.tolist() == [90, 90, 90]


def test_a_large_picture_is_drawn_small_enough_for_an_answer():
    picture = np.full((1500, 3000, 3), 90, np.uint8)
    data = overlay_png(picture, np.ones((3, 3), np.float32), (0, 750, 1500, 1500), unit=1.0)
    with Image.open(io.BytesIO(data)) as drawn:
        assert drawn.size == (1024, 512)


def test_a_small_picture_is_enlarged_by_a_whole_number():
    picture = np.full((28, 28, 3), 90, np.uint8)
    data = overlay_png(picture, np.ones((4, 4), np.float32), (0, 0, 28, 28), unit=1.0)
    with Image.open(io.BytesIO(data)) as drawn:
        assert drawn.size == (504, 504)


@pytest.mark.parametrize("size", [(3000, 2000), (1024, 700), (333, 500), (20, 28), (1025, 1025)])
def test_a_reduced_picture_gives_the_same_overlay(size):
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    region = (size[0] // 5, -7, size[0] // 2, size[1])
    values = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    small = reduced(picture)
    assert max(small.shape) <= 1024
    whole = overlay_png(picture, values, region, unit=1.5)
    assert overlay_png(small, values, region, unit=1.5, longest=max(size)) == whole
