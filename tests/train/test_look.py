"""`hilum look`: every number of the page is the network's own, recomputed here from the page alone."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
import torch

from data_schemas.card import Card, OperatingPoint, Output
from data_schemas.contract import Contract
from data_schemas.errors import PackageError, UsageError
from data_schemas.plan import NetworkPlan
from pipeline.model.export import TOLERANCE, export_package
from pipeline.model.package import open_package
from pipeline.model.runtime import Runtime
from pipeline.train import networks
from pipeline.train.ensemble import answering
from pipeline.train.look import passing, receptive, subject
from pipeline.train.look.neighbours import nearest
from pipeline.train.look.show import show

BINARY = Output(
    label="referable",
    classes=("no", "yes"),
    columns=(0,),
    positive_classes=(1,),
    temperature=1.4,
    shift=(-0.3,),
)
CLASSES = Output(
    label="grade",
    classes=("a", "b", "c"),
    columns=(1, 2, 3),
    positive_classes=(1, 2),
    temperature=0.8,
)


def drawing(size, channels, seed=1):
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (-(-size // 8), -(-size // 8), channels))
    large = coarse.repeat(8, 0).repeat(8, 1)[:size, :size] + generator.integers(
        -9, 9, (size, size, 1)
    )
    return np.ascontiguousarray(np.clip(large, 0, 255).astype(np.uint8))


def network_of(backbone, size, stride, columns, channels=3):
    torch.manual_seed(7)
    network = networks.build(NetworkPlan(backbone=backbone, stride=stride), columns, size)
    with torch.no_grad():
        # as after training: statistics of real maps, evidence that matters
        network.train()
        drawn = np.stack([drawing(size, channels, seed) for seed in range(2)])
        network(torch.from_numpy(drawn))
        network.head.weight.normal_(std=0.5 / network.head.in_channels**0.5)
        network.bias.normal_(std=0.5)
    return network.eval()


TWO_KINDS = (
    NetworkPlan(backbone="convnet", stride=8),
    NetworkPlan(backbone="efficientnet_lite0", size=96),
)
"""Three cells a side, both."""


def package_of(
    folder,
    backbone="convnet",
    size=28,
    stride=8,
    channels=3,
    outputs=(BINARY, CLASSES),
    network=None,
):
    columns = sum(len(output.columns) for output in outputs)
    network = network or network_of(backbone, size, stride, columns, channels)
    contract = Contract(name="tiny", size=size, channels=channels)
    points = tuple(
        OperatingPoint(
            label=output.label,
            rule="youden",
            low=0.3,
            high=0.6,
            images=40,
            positives=20,
            sensitivity=0.9,
            specificity=0.8,
        )
        for output in outputs
    )
    card = Card(
        name="tiny",
        dataset_name="drawn",
        dataset_sha256="d" * 64,
        contract_name=contract.name,
        contract_sha256=contract.digest(),
        plan_sha256="a" * 64,
        backbone=backbone,
        parameters=0,
        size=size,
        channels=channels,
        evidence_stride=network.stride(size),
        outputs=outputs,
        primary=outputs[0].label,
        operating_points=points,
        onnx_max_logit_difference=0.0,
    )
    export_package(network, np.stack([drawing(size, channels)]), card, contract, folder)
    return open_package(folder)


def image_file(folder, size=40, channels=3):
    from PIL import Image

    path = folder / "Meier_Anna_1950.png"
    pixels = drawing(size, channels)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path)
    return path


def tree_of(html):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1]
    )


def unpack(text, dtype, shape):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape)


def check_answer(package, tree, values):
    """Evidence to logit to probability, and the same from the package's own runtime."""
    ran = Runtime(package).run(values[None]).logits[0]
    for output, document in zip(tree["answer"]["outputs"], package.card.outputs, strict=True):
        scaled = []
        for column in output["columns"]:
            logit = np.mean(column["cells"]) + column["bias"]
            assert logit == pytest.approx(column["logit"], abs=TOLERANCE)
            assert logit == pytest.approx(float(ran[column["column"]]), abs=TOLERANCE)
            scaled.append(logit / document.temperature + column["shift"])
        if output["link"] == "sigmoid":
            expected = 1 / (1 + np.exp(-scaled[0]))
        else:
            shares = np.exp(scaled) / np.exp(scaled).sum()
            expected = shares[list(document.positive_classes)].sum()
        assert output["positive"] == pytest.approx(expected, abs=1e-4)
        assert output["state"] == {True: "present", False: "absent"}.get(
            True if expected >= 0.6 else False if expected < 0.3 else None, "uncertain"
        )
    verdicts = {"present": "positive", "absent": "negative", "uncertain": "indeterminate"}
    assert tree["answer"]["verdict"] == verdicts[tree["answer"]["outputs"][0]["state"]]


CASES = [
    pytest.param("convnet", 28, 8, 3, id="convnet-28"),
    pytest.param("convnet", 28, 8, 1, id="convnet-28-grey"),
    pytest.param("lesion_net", 64, 8, 3, id="lesion_net"),
    pytest.param("efficientnet_lite0", 64, 32, 3, id="lite0", marks=pytest.mark.slow),
    pytest.param("resnet18", 64, 32, 1, id="resnet18-grey"),
]


@pytest.mark.parametrize(("backbone", "size", "stride", "channels"), CASES)
def test_the_page_can_be_recomputed_from_itself(tmp_path, backbone, size, stride, channels):
    if backbone == "efficientnet_lite0":
        pytest.importorskip("timm", reason="needs timm")
    package = package_of(tmp_path / "p", backbone, size, stride, channels)
    html = show(package, None, image_file(tmp_path, channels=channels), None).html
    assert len(html.encode()) < 3e6
    assert "Meier" not in html
    assert not re.search(r"(src|href)=\"(?!#|data:)", html)
    tree = tree_of(html)
    first, image = tree["first"], tree["image"]

    # the first convolution, by numpy alone, at every place of the kept maps
    values = unpack(image["values"], np.uint8, (size, size, channels))
    if first["given"] is None:
        plain = np.broadcast_to(values, (size, size, 3)).astype(np.float64)
        given = ((plain - first["mean"]) / first["spread"]).transpose(2, 0, 1)
    else:
        assert tree["contrast"], "only the local contrast stands before the first convolution"
        given = unpack(first["given"], "<f4", (3, size, size)).astype(np.float64)
    k, stride_, pad, side = (first[name] for name in ("kernel", "stride", "padding", "side"))
    weights = unpack(first["weights"], "<f4", (first["filters"], first["channels"], k, k))
    maps = unpack(first["maps"], "<f4", (len(first["kept"]), side, side))
    wide = np.pad(given, ((0, 0), (pad, k), (pad, k)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (k, k), axis=(1, 2))
    windows = windows[:, ::stride_, ::stride_][:, :side, :side]
    made = np.einsum("cyxij,fcij->fyx", windows, weights[first["kept"]])
    if first["bias"] is not None:
        made += np.array(first["bias"])[first["kept"], None, None]
    np.testing.assert_allclose(made, maps, atol=2e-5 * max(1, np.abs(maps).max()))

    check_answer(package, tree, values)
    for unit in (u for level in tree["field"]["stages"] for u in level["units"]):
        assert unit["outside"] < 1e-9, "a gradient where the frame says that nothing can be seen"


def test_an_ensemble_on_enlarged_images_shows_its_first_member_and_says_so(tmp_path):
    grades = Output(
        label="grade",
        classes=("none", "mild", "severe"),
        columns=(0, 1),
        link="cumulative",
        positive_classes=(1, 2),
        temperature=1.2,
    )
    plan = NetworkPlan(backbone="convnet", stride=8, size=56, views="mirror", members=2)
    members = []
    for seed in range(2):
        torch.manual_seed(seed)
        member = networks.build(plan, 2, 28).eval()
        with torch.no_grad():
            member.head.weight.normal_()
        members.append(member)
    together = answering(members, plan.views)
    package = package_of(tmp_path / "p", outputs=(grades,), network=together)
    file = tmp_path / "plan.yaml"
    file.write_text(
        "network: {backbone: convnet, stride: 8, size: 56, views: mirror, members: 2}\n"
    )
    with pytest.raises(PackageError, match="answers otherwise"):
        show(package, None, image_file(tmp_path), None)  # nothing says that it enlarges
    tree = tree_of(show(package, file, image_file(tmp_path), None).html)
    assert (tree["model"]["members"], tree["model"]["views"]) == (2, 2)
    assert (tree["image"]["size"], tree["image"]["side"], tree["first"]["side"]) == (28, 56, 56)
    pixels = unpack(tree["image"]["values"], np.uint8, (28, 28, 3))
    with torch.no_grad():
        alone = members[0](torch.from_numpy(pixels[None].copy()))[0][0].numpy()
    np.testing.assert_allclose(tree["model"]["member_logits"], alone, atol=1e-5)
    (output,) = tree["answer"]["outputs"]
    ran = Runtime(package).run(pixels[None]).logits[0]
    shown = [np.mean(column["cells"]) + column["bias"] for column in output["columns"]]
    np.testing.assert_allclose(shown, ran, atol=TOLERANCE)
    reached = 1 / (1 + np.exp(-ran[0] / 1.2))
    assert output["positive"] == pytest.approx(reached, abs=1e-4)


def test_two_kinds_of_networks_are_found_by_the_card_and_the_weights(tmp_path):
    members = []
    for k, plan in enumerate(TWO_KINDS):
        torch.manual_seed(k)
        members.append(networks.build(plan, 4, 28).eval())
    together = answering(members, "mirror", (1, 1))
    package = package_of(tmp_path / "p", "convnet+efficientnet_lite0", network=together)
    tree = tree_of(show(package, None, image_file(tmp_path), None).html)
    assert (tree["model"]["members"], tree["model"]["views"]) == (2, 2)
    assert tree["image"]["side"] == 28  # the first one's sight
    pixels = unpack(tree["image"]["values"], np.uint8, (28, 28, 3))
    with torch.no_grad():
        alone = members[0](torch.from_numpy(pixels[None].copy()))[0][0].numpy()
    np.testing.assert_allclose(tree["model"]["member_logits"], alone, atol=1e-5)


def test_layer_by_layer_the_fields_have_the_known_sizes():
    # ResNet-18: Araujo, Norris and Sim 2019 give 435 px for its last layer
    known = {"resnet18": [11, 43, 99, 211, 435], "convnet": [4, 8, 14, 22, 34]}
    for backbone, sides in known.items():
        network = network_of(backbone, 64, 32, 1)
        found = sent(network, drawing(64, 3))
        grown = receptive.grow(found.steps)
        assert [max(g.side for g in grown if g.step.stage == n) for n in range(len(sides))] == sides


def sent(network, image):
    whole = subject.Subject(None, network, network, 1, "one", 0.0)
    return passing.send(whole, image)


@pytest.mark.parametrize(("backbone", "size"), [("convnet", 48), ("lesion_net", 112)])
def test_the_frame_is_exactly_what_can_change_a_unit(backbone, size):
    """Pixels outside never change the unit, whatever they are; each side of the frame can."""
    network = network_of(backbone, size, 8, 1)
    image = drawing(size, 3)
    found = sent(network, image)
    stage = found.stages[1]
    row = int(stage.maps.shape[-1]) // 2
    wanted = [[] for _ in network.backbone]
    wanted[stage.child] = [row]
    ((top, bottom),) = receptive.reach(network.backbone, wanted, size, 3)[stage.child]
    assert top > 0
    assert bottom < size - 1
    generator = np.random.default_rng(0)

    def unit(changed):
        return sent(network, changed).stages[1].maps[0, :, row, row].detach().numpy()

    def noise(rows):
        other = image.copy()
        other[rows] = generator.integers(0, 256, other[rows].shape)
        return other

    before = unit(image)
    outside = np.r_[0:top, bottom + 1 : size]
    np.testing.assert_array_equal(unit(noise(outside)), before)
    for edge in (top, bottom):
        assert any(not np.array_equal(unit(noise([edge])), before) for _ in range(20))


def test_the_square_holds_nine_tenths_and_no_smaller_one_does():
    generator = np.random.default_rng(3)
    strength = generator.random((31, 31)).astype(np.float32) ** 4
    side = receptive.inner_square(strength, (15.5, 15.5))

    def share(half):
        inside = np.abs(np.arange(31) + 0.5 - 15.5) <= half
        return strength[np.ix_(inside, inside)].sum() / strength.sum()

    assert share(side / 2) >= 0.9
    assert share(side / 2 - 1) < 0.9
    assert receptive.inner_square(np.zeros((5, 5), np.float32), (2.5, 2.5)) == 0


def test_an_image_that_speaks_markup_stays_text(tmp_path):
    outputs = (BINARY.model_copy(update={"label": "</script><b>x"}),)
    package = package_of(tmp_path / "p", outputs=outputs)
    html = show(package, None, image_file(tmp_path), None).html
    assert "</script><b>" not in html
    assert tree_of(html)["answer"]["primary"] == "</script><b>x"


def test_altered_weights_are_refused(tmp_path):
    from data_schemas.files import sha256
    from pipeline.model.sums import SUMS, WEIGHTS

    package = package_of(tmp_path / "p")
    import safetensors.torch

    tensors = safetensors.torch.load(package.read(WEIGHTS))
    tensors["bias"] = tensors["bias"] + 1
    data = safetensors.torch.save(tensors)
    (package.folder / WEIGHTS).write_bytes(data)
    sums = (package.folder / SUMS).read_text().replace(package.digests[WEIGHTS], sha256(data))
    (package.folder / SUMS).write_text(sums)
    with pytest.raises(PackageError, match="answers otherwise than the package"):
        show(open_package(package.folder), None, image_file(tmp_path), None)


def test_another_backbones_weights_are_refused(tmp_path):
    package = package_of(tmp_path / "p", "convnet")
    plan = tmp_path / "plan.yaml"
    plan.write_text("network:\n  backbone: lesion_net\n  stride: 8\n")
    with pytest.raises(PackageError, match="fit no"):
        show(package, plan, image_file(tmp_path), None)


def test_without_image_and_data_set_it_says_what_to_give(tmp_path):
    package = package_of(tmp_path / "p")
    with pytest.raises(UsageError, match="no data set"):
        show(package, None, None, None)
    with pytest.raises(UsageError, match="can't be read"):
        show(package, None, tmp_path / "none.png", None)


class Folder:
    """A data set in memory with what `look` asks of a folder."""

    def __init__(self, tiny):
        self.folder, self.info, self.contract = tiny.folder, tiny.info, tiny.contract
        self._tiny = tiny

    def indices(self, split):
        return self._tiny.indices(split)

    def labels(self, name):
        return self._tiny.labels(name)

    def copies(self, rows):
        return self._tiny.images[rows]


def test_the_typical_image_is_the_median_of_the_positives(tmp_path, memory_set):
    output = BINARY.model_copy(update={"label": "bright"})
    package = package_of(tmp_path / "p", size=16, outputs=(output,))
    dataset = Folder(memory_set(n=100, size=16))
    runtime = Runtime(package)
    seen = subject.typical(dataset, package, runtime)
    rows = dataset.indices("tune")
    rows = rows[dataset.labels("bright")[rows] == 1]
    logits = np.concatenate(
        [runtime.run(dataset.copies(rows[k : k + 1])).logits[:, 0] for k in range(len(rows))]
    )
    assert seen.row in rows
    assert seen.truth == {"bright": "c1"}
    own = runtime.run(seen.pixels[None]).logits[0, 0]
    assert (logits < own).sum() <= len(rows) / 2
    assert (logits > own).sum() <= len(rows) / 2


def test_neighbours_are_the_nearest_by_cosine(tmp_path, memory_set):
    output = BINARY.model_copy(update={"label": "bright"})
    package = package_of(tmp_path / "p", size=16, outputs=(output,))
    dataset = Folder(memory_set(n=60, size=16))
    runtime = Runtime(package)
    train = dataset.indices("train")
    pixels = dataset.copies(train[4:5])[0]
    seen = subject.Seen(pixels, pixels, (0, 0, 16, 16), "x", "", 0, 0, {})
    found = nearest(dataset, runtime, seen, 3, lambda *_: None)
    assert found[0]["row"] == train[4]
    assert found[0]["cosine"] == pytest.approx(1, abs=1e-6)
    every = runtime.run(dataset.copies(train)).embedding.astype(np.float64)
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    order = np.sort(every @ every[4])[::-1]
    assert [n["cosine"] for n in found] == pytest.approx(order[:3].tolist(), abs=1e-6)
