"""Runtimes answer alike, precisions are what they say, and the reduced ones are used only where evidence allows."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_schemas.errors import PackageError, UsageError
from pipeline.model import agreement, decision, opening, vino
from pipeline.model.kinds import BASE, KINDS, Kind, identity_of, kind_of
from pipeline.model.opening import CheckError, Wish, check_wish, open_runtime
from pipeline.model.package import kept_files, open_package, write_package
from pipeline.model.runtime import Runtime
from pipeline.model.sums import GRAPH, INT8_GRAPH
from tests.model import tiny_network as tiny
from tests.model.precise import needs_openvino, opened

ROOT = Path(__file__).parents[2]
INT8 = Wish("onnxruntime", "int8")


def with_rows(package, **changes):
    """Return the package with other figures in its rows of reduced precisions."""
    rows = tuple(
        row if row.precision.endswith("fp32") else row.model_copy(update=changes)
        for row in package.card.checks
    )
    return replace(package, card=package.card.model_copy(update={"checks": rows}))


def without_rows(package):
    return replace(package, card=package.card.model_copy(update={"checks": ()}))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_score_names_its_kind_so_that_it_is_found_again(kind):
    assert kind_of(identity_of(kind, "1.2.3")) == kind


@pytest.mark.parametrize(
    "identity", ["", "tflite 2 fp32", "onnxruntime 1 fp16", "openvino 1 fp32 x"]
)
def test_a_runtime_that_nobody_knows_is_refused(identity):
    with pytest.raises(UsageError, match="no runtime"):
        kind_of(identity)


@needs_openvino
def test_the_first_runs_of_a_process_may_come_at_once(precise_package):
    script = (
        "import sys, threading\n"
        "sys.setswitchinterval(1e-6)\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from pipeline.model.kinds import Kind\n"
        "from pipeline.model.package import open_package, verification\n"
        "from pipeline.model.runtime import Runtime\n"
        "package = open_package(Path(sys.argv[1]))\n"
        "images = verification(package).images\n"
        "runtime = Runtime(package, kind=Kind('openvino', 'fp32'), streams=4)\n"
        "together = threading.Barrier(4)\n"
        "def run():\n"
        "    together.wait()\n"
        "    runtime.run(images[:1])\n"
        "threads = [threading.Thread(target=run) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
    )
    words = [sys.executable, "-c", script, str(precise_package.folder)]
    for _ in range(2):
        subprocess.run(words, cwd=ROOT, timeout=120, check=True)


@needs_openvino
def test_both_runtimes_answer_alike_in_fp32(precise_package):
    images = tiny.images(20, seed=21)
    one = Runtime(precise_package).run(images)
    other = Runtime(precise_package, kind=Kind("openvino", "fp32")).run(images)
    for name in ("logits", "evidence", "embedding"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4)
        assert getattr(other, name).dtype == np.float32
    assert decision.verdicts(precise_package.card, one.logits) == decision.verdicts(
        precise_package.card, other.logits
    )


@needs_openvino
def test_bf16_is_what_was_compiled_and_another_answer(precise_package):
    runtime = opened(precise_package, "openvino", "bf16")
    assert runtime.identity == f"openvino {vino.VERSION} bf16"
    images = tiny.images(20, seed=21)
    found = agreement.compare(
        precise_package.card,
        Runtime(precise_package).run(images).logits,
        agreement.answers(runtime, images),
    )
    assert 1e-6 < found.logit < 0.1
    assert found.evidence < agreement.EVIDENCE["bf16"]


@needs_openvino
def test_a_precision_that_openvino_chose_by_itself_is_refused(precise_package, monkeypatch):
    opened(precise_package, "openvino", "bf16")  # skips where it would not choose it
    monkeypatch.setitem(vino._HINTS, "fp32", "bf16")
    with pytest.raises(PackageError, match="was asked for in fp32, openvino compiled it to bf16"):
        Runtime(precise_package, kind=Kind("openvino", "fp32"))


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_an_8_bit_graph_in_the_place_of_the_other_is_refused(precise_package, tmp_path, runtime):
    files = kept_files(precise_package)
    files[GRAPH] = files[INT8_GRAPH]
    write_package(tmp_path / "p", files, precise_package.card, precise_package.contract)
    with pytest.raises(PackageError, match=f"asked for in fp32, {runtime} compiled it to int8"):
        Runtime(open_package(tmp_path / "p"), kind=Kind(runtime, "fp32"))


@needs_openvino
def test_streams_do_not_mix_their_answers(precise_package):
    runtime = Runtime(precise_package, kind=Kind("openvino", "fp32"), streams=2)
    images = tiny.images(24, seed=3)
    wanted = runtime.run(images)
    wrong = []

    def ask(first):
        for place in [*range(first, 24), *range(first)]:
            found = runtime.run(images[place][None])
            same = [
                np.array_equal(getattr(found, name)[0], getattr(wanted, name)[place])
                for name in ("logits", "evidence", "embedding")
            ]
            wrong.extend([] if all(same) else [place])

    threads = [threading.Thread(target=ask, args=(5 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_without_a_wish_it_is_onnx_runtime_in_fp32(precise_package):
    found = open_runtime(precise_package)
    assert found.runtime.kind == BASE
    assert found.notes == ()
    assert found.agreement.logit <= 1e-4


def test_int8_is_used_where_the_evidence_allows_it(precise_package):
    found = open_runtime(precise_package, INT8)
    assert found.runtime.identity.endswith(" int8")
    assert found.agreement.changed == 0
    assert 0 < found.agreement.probability <= 0.01


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"changed_verdicts": 1}, "calibration split: 1 of 40 verdicts change"),
        ({"max_probability_difference": 0.0101}, r"differs by 0\.01, 0\.01 is allowed"),
        ({"max_evidence_difference": 0.2}, "an evidence map misses its logit by 0.2"),
        ({"images": 31}, "measured on 31 images, 32 are asked for"),
    ],
)
def test_evidence_that_does_not_allow_it_refuses_it(precise_package, changes, reason):
    package = with_rows(precise_package, **changes)
    with pytest.raises(CheckError, match=reason):
        check_wish(package, INT8)
    with pytest.raises(CheckError, match=reason):
        open_runtime(package, INT8)


def test_no_evidence_allows_nothing(precise_package, binary_package):
    with pytest.raises(CheckError, match=r"int8: card\.json has no row for it"):
        open_runtime(without_rows(precise_package), INT8)
    with pytest.raises(CheckError, match="has no int8 graph"):
        open_runtime(binary_package, Wish("auto", "int8"))
    with pytest.raises(CheckError, match="no runtime does that"):
        open_runtime(binary_package, Wish("onnxruntime", "bf16"))


def test_the_verification_set_here_has_the_last_word(precise_package):
    """A threshold between the two precisions' answers to one of the package's own images."""
    images = tiny.images(4)
    one, other = (
        decision.positive_probability(precise_package.card, "referable", runtime.run(images).logits)
        for runtime in (
            Runtime(precise_package),
            Runtime(precise_package, kind=Kind("onnxruntime", "int8")),
        )
    )
    place = int(np.argmax(np.abs(one - other)))
    middle = float(one[place] + other[place]) / 2
    points = (tiny.point("referable", middle, middle), tiny.point("exudates"))
    card = precise_package.card.model_copy(update={"operating_points": points})
    moved = replace(precise_package, card=card)
    check_wish(moved, INT8)
    with pytest.raises(CheckError, match=r"on the verification images here [1-4] of 4 verdicts"):
        open_runtime(moved, INT8)
    assert open_runtime(moved, Wish("onnxruntime", "fast")).runtime.kind == BASE


def test_fast_takes_the_first_that_is_allowed_and_says_why_not_another(precise_package):
    assert open_runtime(precise_package, Wish("auto", "fast")).runtime.kind.precision == "int8"
    found = open_runtime(without_rows(precise_package), Wish("onnxruntime", "fast"))
    assert found.runtime.kind == BASE
    assert found.notes == ("onnxruntime int8: card.json has no row for it",)


def test_a_runtime_that_is_not_installed_is_refused_by_name(precise_package, monkeypatch):
    monkeypatch.setattr(
        opening, "missing", lambda kind, _batch=1: "is not there" if kind != BASE else ""
    )
    with pytest.raises(CheckError, match="openvino fp32: is not there"):
        open_runtime(precise_package, Wish("openvino", "fp32"))
    assert open_runtime(precise_package, Wish("auto", "fp32")).runtime.kind == BASE


def test_a_graph_that_answers_otherwise_here_is_refused(precise_package, tmp_path):
    other = tiny.EvidenceNetwork(2, seed=4)
    export = pytest.importorskip("pipeline.model.export")
    export.export_package(other, tiny.images(4), tiny.card(), tiny.CONTRACT, tmp_path / "other")
    files = kept_files(precise_package) | {
        GRAPH: open_package(tmp_path / "other").read(GRAPH),
    }
    write_package(tmp_path / "p", files, precise_package.card, precise_package.contract)
    with pytest.raises(CheckError, match="away from the stored ones"):
        open_runtime(open_package(tmp_path / "p"))
