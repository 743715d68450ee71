"""An altered, incomplete or foreign package is refused, with the file and the reason."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from functools import partial

import pytest

from data_schemas.card import Evaluation, Interval
from data_schemas.contract import Contract
from data_schemas.errors import PackageError
from pipeline.model import sums as sums_module
from pipeline.model.package import open_package, with_evaluation
from pipeline.model.runtime import Runtime
from pipeline.model.sums import FILES, SUMS, check_files


@pytest.fixture
def copy(binary_package, tmp_path):
    return shutil.copytree(binary_package.folder, tmp_path / "package")


def _seal(folder):
    """Write SHA256SUMS anew, as somebody would who means the change."""
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(FILES)
    ]
    (folder / SUMS).write_text("".join(lines))


def test_digest_is_that_of_the_list_and_sha256sum_agrees(binary_package):
    folder = binary_package.folder
    assert binary_package.sha256 == hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=True)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(PackageError, match="was altered") as caught:
        open_package(copy)
    assert str(caught.value.where).endswith(name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(PackageError, match="missing") as caught:
        open_package(copy)
    assert str(caught.value.where).endswith(name)


def test_no_list_no_package(copy, tmp_path):
    (copy / SUMS).unlink()
    with pytest.raises(PackageError, match="holds no SHA256SUMS"):
        open_package(copy)
    with pytest.raises(PackageError, match="no such package folder"):
        open_package(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line", ["", "nonsense", f"{'0' * 64}  ../../etc/passwd", f"{'0' * 64}  a/b", f"{'0' * 63}  x"]
)
def test_a_strange_list_is_refused(copy, line):
    old = (copy / SUMS).read_text()
    (copy / SUMS).write_text(old + line + "\n")
    with pytest.raises(PackageError, match="not a line"):
        open_package(copy)


def test_a_list_that_leaves_a_file_out_is_refused(copy):
    lines = (copy / SUMS).read_text().splitlines(keepends=True)
    (copy / SUMS).write_text("".join(line for line in lines if "model.onnx" not in line))
    with pytest.raises(PackageError, match=r"doesn't list model\.onnx"):
        open_package(copy)


def _edit(folder, name, **changes):
    tree = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(tree))
    _seal(folder)


def test_an_unknown_version_is_refused(copy):
    _edit(copy, "card.json", schema_version=2)
    with pytest.raises(PackageError, match="schema_version is 2"):
        open_package(copy)


def test_an_unknown_key_and_wrong_json_are_refused(copy):
    _edit(copy, "card.json", surprise=1)
    with pytest.raises(PackageError, match="surprise"):
        open_package(copy)
    (copy / "card.json").write_text("{")
    _seal(copy)
    with pytest.raises(PackageError, match="not JSON"):
        open_package(copy)


def test_another_contract_is_refused(copy):
    other = Contract(name="tiny", size=32, channels=3, fit="stretch")
    other.write_json(copy / "contract.json")
    _seal(copy)
    with pytest.raises(PackageError, match="was made for contract"):
        open_package(copy)


def test_bytes_changed_after_opening_do_not_run(copy):
    package = open_package(copy)
    (copy / "model.onnx").write_bytes(b"something else")
    with pytest.raises(PackageError, match="was altered"):
        Runtime(package)


def test_the_file_that_was_checked_is_not_hashed_again(copy, monkeypatch):
    monkeypatch.setattr(sums_module, "_TICK_NS", -1)  # it was written just now
    package = open_package(copy)
    monkeypatch.setattr(sums_module, "sha256", lambda _: pytest.fail("hashed"))
    assert package.read("model.onnx") == (copy / "model.onnx").read_bytes()


def test_bytes_changed_in_place_with_the_old_time_are_found(copy, monkeypatch):
    monkeypatch.setattr(sums_module, "_TICK_NS", -1)
    package = open_package(copy)
    graph = copy / "model.onnx"
    before = graph.stat()
    time.sleep(0.02)  # a tick of the file system's clock
    with graph.open("r+b") as stream:
        stream.write(b"x")
    os.utime(graph, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert graph.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(PackageError, match="was altered"):
        package.read("model.onnx")


def test_a_file_that_changed_just_now_is_hashed_again(copy):
    (copy / "model.onnx").touch()
    assert "model.onnx" not in open_package(copy).sums.checked


def test_who_never_reads_the_weights_need_not_hash_them(copy):
    (copy / "model.safetensors").write_bytes(b"something else")
    package = open_package(copy, files=partial(check_files, unread=("model.safetensors",)))
    assert package.read("model.onnx")
    with pytest.raises(PackageError, match="was altered"):
        package.read("model.safetensors")


def test_a_graph_that_is_not_one_and_a_card_that_lies_about_it(copy):
    tree = json.loads((copy / "card.json").read_text())
    keep = {"outputs": tree["outputs"][:1], "operating_points": tree["operating_points"][:1]}
    _edit(copy, "card.json", **keep)
    with pytest.raises(PackageError, match="returns 2 logits, the card names 1"):
        Runtime(open_package(copy))
    (copy / "model.onnx").write_bytes(b"not a graph")
    _seal(copy)
    with pytest.raises(PackageError, match="can't load"):
        Runtime(open_package(copy))


def test_with_evaluation_changes_the_card_only(binary_package, tmp_path):
    evaluation = Evaluation(
        dataset_sha256="d" * 64,
        split="test",
        images=3,
        patients=2,
        statistics={"auc/referable": Interval(value=0.9, low=0.8, high=1.0)},
        confusion={"referable": ((1, 0), (1, 1))},
    )
    final = with_evaluation(binary_package, evaluation, tmp_path / "final", notes=("a note",))
    assert final.card.evaluation == evaluation
    assert final.card.notes == ("a note",)
    assert final.sha256 != binary_package.sha256
    for name in ("model.onnx", "model.safetensors", "verification.npz", "contract.json"):
        assert final.digests[name] == binary_package.digests[name]
