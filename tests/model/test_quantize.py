"""The 8-bit graph: the same outputs, evidence that sums to the logit, part of the package's digest; and the commands."""

import json

import numpy as np
import onnx
import pytest
from torch import nn

from data_schemas.errors import PackageError
from pipeline.model import agreement
from pipeline.model.export import export_package
from pipeline.model.kinds import Kind, kind_of
from pipeline.model.package import SUMS, open_package, verification, with_evaluation
from pipeline.model.quantize import quantise
from pipeline.model.runtime import Runtime
from pipeline.model.sums import FILES, GRAPH, INT8_GRAPH
from pipeline.model.verify import verify
from services.cli.main import main
from tests.model import tiny_network as tiny


def test_the_package_holds_both_graphs_under_a_digest_of_its_own(precise_package):
    folder = precise_package.folder
    assert {path.name for path in folder.iterdir()} == {*FILES, INT8_GRAPH, SUMS}
    plain = open_package(folder.parent / "plain")
    assert plain.sha256 != precise_package.sha256
    assert plain.digests[GRAPH] == precise_package.digests[GRAPH]
    assert precise_package.card.notes[-1] == f"8-bit graph added to package {plain.sha256}"


def test_every_precision_of_this_machine_has_its_row(precise_package):
    rows = {str(kind_of(row.precision)): row for row in precise_package.card.checks}
    assert rows["onnxruntime fp32"].against == "torch"
    int8 = rows["onnxruntime int8"]
    assert (int8.split, int8.images, int8.changed_verdicts) == ("calibration", 40, 0)
    assert int8.against == Runtime(precise_package).identity
    assert 0 < int8.max_probability_difference <= 0.01
    assert len(rows) == len(precise_package.card.checks)


def test_evidence_still_sums_to_the_logit(precise_package):
    runtime = Runtime(precise_package, kind=Kind("onnxruntime", "int8"))
    found = runtime.run(tiny.images(12, seed=30))
    plain = Runtime(precise_package).run(tiny.images(12, seed=30))
    assert found.evidence.mean((2, 3)) + runtime.bias == pytest.approx(found.logits, abs=1e-5)
    assert found.embedding.shape == plain.embedding.shape
    assert found.evidence.shape == plain.evidence.shape
    assert not np.array_equal(found.logits, plain.logits)
    assert found.logits == pytest.approx(plain.logits, abs=0.05)


def test_the_same_images_give_the_same_graph(precise_package):
    graph, images = precise_package.read(GRAPH), tiny.images(4, seed=7)
    assert quantise(graph, images) == quantise(graph, images)


def test_an_altered_8_bit_graph_is_found(precise_package, tmp_path):
    kept = with_evaluation(precise_package, None, tmp_path / "kept")
    assert kept.read(INT8_GRAPH) == precise_package.read(INT8_GRAPH)
    (kept.folder / INT8_GRAPH).write_bytes(kept.read(INT8_GRAPH) + b" ")
    with pytest.raises(PackageError, match="was altered"):
        open_package(kept.folder)


def test_a_file_that_no_package_has_is_refused(precise_package, tmp_path):
    folder = with_evaluation(precise_package, None, tmp_path / "kept").folder
    with (folder / SUMS).open("a") as stream:
        stream.write(f"{'0' * 64}  model.fp4.onnx\n")
    with pytest.raises(PackageError, match=r"model\.fp4\.onnx: no file of a package"):
        open_package(folder)


def test_verify_compares_with_the_network_or_on_images_with_the_base(precise_package):
    rows = verify(precise_package)
    assert all(row.allowed and row.found.images == 4 for row in rows)
    assert {row.kind for row in rows} >= {Kind("onnxruntime", "fp32"), Kind("onnxruntime", "int8")}
    base = verify(precise_package, tiny.images(7, seed=2))[0].found
    assert (base.images, base.logit, base.changed) == (7, 0.0, 0)


def test_hilum_verify_prints_the_table(precise_package, capsys):
    assert main(["verify", str(precise_package.folder)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"package {precise_package.sha256}, verification set"
    (line,) = [x.split() for x in told if x.startswith("onnxruntime") and " int8 " in x]
    assert (line[2], line[3], line[-2:]) == ("int8", "4", ["0", "yes"])


def test_hilum_verify_as_json_says_why_not(binary_package, capsys):
    assert main(["verify", str(binary_package.folder), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    rows = {f"{row['runtime']} {row['precision']}": row for row in tree["rows"]}
    assert rows["onnxruntime fp32"]["allowed"]
    if rows.get("openvino bf16", {}).get("identity"):
        assert rows["openvino bf16"]["reason"] == "card.json has no row for it"
    assert tree["package_sha256"] == binary_package.sha256


def test_hilum_verify_fails_if_fp32_does(precise_package, tmp_path, capsys):
    from pipeline.model.package import kept_files, pack_verification, write_package
    from pipeline.model.sums import VERIFICATION

    stored = verification(precise_package)
    moved = type(stored)(stored.images, stored.logits + np.float32(2e-4), stored.bias)
    files = kept_files(precise_package) | {VERIFICATION: pack_verification(moved)}
    write_package(tmp_path / "p", files, precise_package.card, precise_package.contract)
    assert main(["verify", str(tmp_path / "p")]) == 1
    assert "onnxruntime fp32: a logit differs by 0.0002" in capsys.readouterr().out
    assert agreement.LOGIT == 1e-4


def test_hilum_verify_refuses_another_package(precise_package, capsys):
    words = ["verify", str(precise_package.folder), "--sha256"]
    assert main([*words, precise_package.sha256[:12]]) == 0
    assert main([*words, "0" * 64]) == 2
    assert "expected 0000" in capsys.readouterr().err
    for nothing in ("", precise_package.sha256[:11]):  # an unset variable, say
        assert main([*words, nothing]) == 2
        assert "12 digits" in capsys.readouterr().err


class Deep(tiny.EvidenceNetwork):
    """Six convolutions before the head."""

    def __init__(self):
        super().__init__(2, seed=4)
        more = [layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
        self.body = nn.Sequential(*self.body, *more)


@pytest.fixture(scope="module")
def deep_graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep") / "package"
    export_package(Deep(), tiny.images(), tiny.card(), tiny.CONTRACT, folder)
    return open_package(folder).read(GRAPH)


def rounded(graph):
    """Return how many convolutions read weights in 8 bits."""
    nodes = onnx.load_from_string(graph).graph.node
    narrow = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    return sum(node.op_type == "Conv" and node.input[1] in narrow for node in nodes)


@pytest.mark.parametrize(("refusals", "kept"), [(0, 1), (1, 3), (2, 5), (9, 5)])
def test_more_of_the_first_layers_stay_as_they_are_until_it_is_close_enough(
    deep_graph, refusals, kept
):
    asked = []

    def enough(found, wanted):
        asked.append(np.abs(found - wanted).max())
        return len(asked) > refusals

    assert rounded(quantise(deep_graph, tiny.images(8, seed=7), enough)) == 6 - kept
    assert len(asked) == min(refusals + 1, 3)


def test_what_the_logits_lack_on_average_is_given_back(deep_graph):
    images = tiny.images(8, seed=7)
    told = []
    quantise(deep_graph, images, lambda found, wanted: bool(told.append((found, wanted))) or True)
    found, wanted = told[0]
    assert np.abs(found - wanted).max() > 1e-4
    assert found.mean(0) == pytest.approx(wanted.mean(0), abs=1e-5)
