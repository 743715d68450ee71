"""A model's own images: what is far from them is outside, at the stated rate; nothing of a patient is kept."""

import io
from dataclasses import replace

import numpy as np
import pytest

from data_schemas.errors import ImageError, PackageError
from data_schemas.receipt import output_digest
from data_schemas.score import Score
from pipeline.batch.rows import scored
from pipeline.imaging.kinds import prepare_any_kind, read_any_kind
from pipeline.model import reference as references
from pipeline.model.export import export_package
from pipeline.model.package import open_package, with_evaluation
from pipeline.model.reference import Seen, looks, make_reference, pack_reference, unpack_reference
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes, score_prepared
from pipeline.model.sums import REFERENCE, SUMS
from pipeline.model.wanted import Wanted
from tests.model import tiny_network as tiny
from tests.model.test_scoring import SHARED
from tests.services import drawn_files as drawn

RANDOM = np.random.default_rng(3)


def seen(count, shift=0.0):
    """Embeddings of 24 numbers that lie near a plane, and soft pictures."""
    along = RANDOM.normal(size=(count, 2)) @ np.eye(2, 24)
    embeddings = along + RANDOM.normal(scale=0.1, size=(count, 24)) + shift
    return Seen(embeddings.astype(np.float32), looks(tiny.images(count=count, seed=count)))


def made(training=400, held_out=199):
    held = seen(held_out)
    probabilities = {"referable": RANDOM.uniform(size=held_out)}
    return make_reference(seen(training), held, "calibration", probabilities)


def test_false_alarms_are_as_rare_as_is_said_and_strange_images_are_caught():
    found, images = made(), tiny.images(count=2000, seed=9)
    own = replace(seen(2000), looks=looks(images))
    outside = [
        not found.see(one, image).scope.inside
        for one, image in zip(own.embeddings, images, strict=True)
    ]
    # 1 % are promised; of 2,000 images 2 % would be 4 standard errors more
    assert found.rate == pytest.approx(0.01)
    assert np.mean(outside) < 0.02
    strange = found.see(own.embeddings[0] + 1, images[0]).scope
    assert (strange.inside, strange.reasons) == (False, references.REASONS[:1])
    assert strange.distance > strange.limit
    noise = RANDOM.integers(0, 256, images[0].shape, np.uint8)
    assert found.see(own.embeddings[0], noise).scope.reasons == references.REASONS[1:]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_an_image_looks_like_is_what_its_numbers_say(channels):
    image = RANDOM.integers(0, 256, (9, 14, channels), np.uint8)
    plain, middle = image.astype(float), image[..., channels // 2].astype(float)
    steps = [np.abs(np.diff(middle, axis=axis)).mean() for axis in (0, 1)]
    expected = [*plain.mean(axis=(0, 1)), *plain.std(axis=(0, 1)), *steps]
    assert looks(image[None]) == pytest.approx(np.array([expected]), abs=1e-9)
    assert np.array_equal(looks(image[:, ::-1][None, :, ::-1]), looks(image[None]))


@pytest.mark.parametrize(("count", "rate", "place"), [(1, 1 / 2, 1), (60, 1 / 61, 60), (99, 0.01, 99), (999, 0.01, 990)])  # fmt: skip
def test_of_few_images_no_rarer_alarm_is_claimed_than_they_can_show(count, rate, place):
    limit, claimed = references.limit_of(np.arange(1, count + 1))
    assert (limit, claimed) == (place, pytest.approx(rate))


def test_it_is_kept_whole_without_pickle_and_small():
    found = made()
    data = pack_reference(found)
    again = unpack_reference(data, "here")
    assert pack_reference(again) == data
    image = tiny.images(count=1)[0]
    one, other = (kept.see(np.ones(24, np.float32), image) for kept in (found, again))
    assert (one.scope, one.features) == (other.scope, other.features)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        # nothing has a row for each image
        assert max(len(np.atleast_1d(arrays[name])) for name in arrays) < 199
    with pytest.raises(PackageError, match="can't be read"):
        unpack_reference(data[:-200], "here")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package with the reference of its own network on soft blobs."""
    folder = tmp_path_factory.mktemp("referred")
    network, images = tiny.EvidenceNetwork(2), tiny.images()
    export_package(network, images, tiny.card(), tiny.CONTRACT, folder / "plain")
    runtime = Runtime(open_package(folder / "plain"))

    def own(count, seed):
        pixels = tiny.images(count=count, seed=seed)
        return Seen(runtime.run(pixels).embedding, looks(pixels))

    shares = {"referable": RANDOM.uniform(size=150), "exudates": RANDOM.uniform(size=150)}
    reference = make_reference(own(200, 1), own(150, 2), "calibration", shares)
    export_package(
        network, images, tiny.card(), tiny.CONTRACT, folder / "package", reference=reference
    )
    return open_package(folder / "package")


def test_the_package_names_it_and_refuses_an_altered_one(package, tmp_path):
    assert REFERENCE in (package.folder / SUMS).read_text()
    copied = with_evaluation(package, None, tmp_path / "copy")
    assert copied.reference is not None
    assert copied.digests[REFERENCE] == package.digests[REFERENCE]
    data = (copied.folder / REFERENCE).read_bytes()
    (copied.folder / REFERENCE).write_bytes(data[:-1] + b"x")
    with pytest.raises(PackageError, match="was altered"):
        open_package(copied.folder)


def score_of(package, pixels, evidence=False):
    return score_bytes(package, Runtime(package), drawn.encoded(pixels, "PNG"), evidence=evidence)


def test_a_score_says_how_far_and_why_and_hides_no_number(package):
    own = score_of(package, tiny.images(count=1, seed=5)[0])
    assert own.scope.inside
    assert own.verdict in ("positive", "negative", "indeterminate")
    strange = score_of(package, RANDOM.integers(0, 256, (32, 32, 3), np.uint8), evidence=True)
    assert strange.verdict == "out_of_scope"
    assert strange.scope.distance > strange.scope.limit
    assert {finding.state for finding in strange.findings} == {"not_assessed"}
    assert all(finding.probability is not None for finding in strange.findings)
    assert len(strange.logits) == 2
    assert strange.probabilities
    assert strange.evidence
    row = scored(strange)
    assert (row["verdict"], row["distance"]) == ("out_of_scope", strange.scope.distance)
    assert row["scope"] == strange.scope.reasons[0]
    assert Score.model_validate_json(strange.model_dump_json()) == strange


def test_the_receipt_covers_the_scope_and_older_ones_stay(package):
    score = score_of(package, tiny.images(count=1, seed=5)[0])
    closer = score.scope.model_copy(update={"distance": 0.0})
    assert output_digest(score) != output_digest(score.model_copy(update={"scope": closer}))
    plain = score.model_copy(update={"scope": None})
    assert output_digest(plain) != output_digest(score)


def test_who_watches_is_told_of_what_the_network_saw(package):
    runtime, told = Runtime(package), []
    instance = read_any_kind(drawn.encoded(tiny.images(count=1)[0], "PNG"), package.contract)
    prepared = prepare_any_kind(instance, package.contract)
    wanted = Wanted(watch=lambda *both: told.append(both))
    score_prepared(package, runtime, instance, prepared, wanted)
    ((score, sight),) = told
    assert score.scope == sight.scope
    assert set(sight.features) == set(references.FEATURES)


def test_a_sound_image_of_another_kind_is_answered_and_a_broken_one_refused(fundus_contract):
    ct = drawn.ct_slice()
    instance = read_any_kind(ct, fundus_contract)
    assert "the modality is CT" in instance.outside
    grey = drawn.encoded(drawn.fundus()[:, :, 1])
    assert "grey" in read_any_kind(grey, fundus_contract).outside
    for broken, code in ((ct[: len(ct) // 2], "TRUNCATED"), (b"a letter", "NOT_AN_IMAGE")):
        with pytest.raises(ImageError) as refused:
            read_any_kind(broken, fundus_contract)
        assert refused.value.code == code


def test_another_kind_is_a_verdict_without_any_number(fundus_package):
    score = score_bytes(fundus_package, Runtime(fundus_package), drawn.ct_slice(), evidence=True)
    assert score.verdict == "out_of_scope"
    assert score.scope.reasons == ("the modality is CT, the contract takes OP, XC",)
    assert (score.scope.distance, score.image.prepared_sha256) == (None, "")
    assert (score.probabilities, score.logits, score.evidence) == ({}, (), ())
    assert {(f.state, f.probability) for f in score.findings} == {("not_assessed", None)}
    assert scored(score)["scope"] == score.scope.reasons[0]


@pytest.mark.needs_shared
def test_every_shared_dicom_ends_as_an_answer_or_as_a_refusal(fundus_package):
    files = sorted((SHARED / "dicom").glob("*.dcm"))[::8]
    if not files:
        pytest.skip("needs ../shared/data/dicom")
    runtime, answers = Runtime(fundus_package), set()
    for file in files:
        try:
            answers.add(score_bytes(fundus_package, runtime, file.read_bytes()).verdict)
        except ImageError as refused:
            answers.add(refused.code)
    assert "out_of_scope" in answers
    assert not answers & {"WRONG_MODALITY", "NOT_COLOUR", "WRONG_VIEW", "WRONG_PRESENTATION"}
