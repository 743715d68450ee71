"""The served image, built and run as a platform team would: without rights, nothing writable, little memory."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/hilum-serve:test"
BASES = ("localhost/hilum-base:bookworm", "docker.io/library/python:3.11-slim")
PACKAGES = ("configs", "data_schemas", "pipeline", "services")
LARGEST_MB = 500
"""Of the image without its base."""
LARGEST_PACKAGES_MB = 320
READY_S = 120
LOCKED_DOWN = (
    "--read-only",
    "--tmpfs=/tmp:size=64m",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=1g",
    "--pids-limit=128",
    # the port is published to this machine alone
    "--env=HILUM_INSECURE_OPEN=true",
)
pytestmark = [pytest.mark.needs_podman, pytest.mark.slow]


def podman(*words, check=True, timeout=900):
    environment = {"CONTAINERS_CONF": str(ROOT / "deploy" / "containers.conf")} | os.environ
    command = ["podman", *words]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {result.returncode}\n{result.stderr[-3000:]}")
    return result


def stop_short(reason):
    """Skip, but fail where CI has promised containers: a missing part must not look like a pass."""
    if os.environ.get("CI_CONTAINER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def one_at_a_time():
    """Let parallel test processes build one after the other; the later find the layers made."""
    with (Path(tempfile.gettempdir()) / "hilum-test-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def base():
    """The name of the image that the served one is built on."""
    if shutil.which("podman") is None:
        stop_short("needs podman (make setup-system)")
    base = os.environ.get("BASE") or next(
        (base for base in BASES if podman("image", "exists", base, check=False).returncode == 0), ""
    )
    if not base:
        stop_short(f"needs a base image (make setup-image-base, or podman pull {BASES[-1]})")
    return base


@pytest.fixture(scope="module")
def image(base):
    """Build the served image; its name."""
    with one_at_a_time():
        result = subprocess.run(
            ["deploy/build-image", "serve", IMAGE],
            cwd=ROOT,
            env=os.environ | {"BUILDER": "podman", "BASE": base},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
    assert result.returncode == 0, result.stderr[-5000:]
    return IMAGE


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A model package as training exports it, of a tiny network."""
    pytest.importorskip("torch", reason="exporting a model package needs the extra `train`")
    from pipeline.model.export import export_package
    from tests.model import tiny_network as tiny

    folder = tmp_path_factory.mktemp("image") / "package"
    export_package(tiny.EvidenceNetwork(2), tiny.images(), tiny.card(), tiny.CONTRACT, folder)
    for path in (folder.parent, folder):
        path.chmod(0o755)  # the image's user is a stranger here
    return folder


@pytest.fixture(scope="module")
def dicom():
    """A drawn fundus photograph as DICOM, as in the demo's cohort."""
    from pipeline.demo.draw import draw_eye, draw_person
    from pipeline.demo.photograph import Phantom, as_dicom

    generator = np.random.default_rng(7)
    drawing = draw_eye(generator, draw_person(generator), "R", 3)
    phantom = Phantom("Phantom^Ada", "PHANTOM-0001", "19500101", "F", "20260101")
    return as_dicom(drawing.pixels, phantom, "R", quality=90, entropy="hilum-test/1 R")


class Served:
    """A running container of the image."""

    def __init__(self, name, port):
        self.name = name
        self.root = f"http://127.0.0.1:{port}"
        # no proxy stands between this machine and itself
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path, body=None):
        request = urllib.request.Request(  # noqa: S310 - our own address
            self.root + path, data=body, headers={"Content-Type": "application/dicom"}
        )
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def ready(self):
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False

    def run(self, *words):
        return podman("exec", self.name, *words, check=False)


@pytest.fixture(scope="module")
def served(image, package):
    """The image, serving the package; stopped and removed at the end."""
    name = f"hilum-test-{uuid.uuid4().hex[:12]}"
    model = f"--volume={package}:/model:ro"
    began = time.monotonic()
    podman("run", "--detach", f"--name={name}", *LOCKED_DOWN, "-p=127.0.0.1::8080", model, image)
    try:
        port = podman("port", name, "8080/tcp").stdout.strip().rpartition(":")[2]
        container = Served(name, port)
        while not container.ready():
            if time.monotonic() - began > READY_S:
                pytest.fail(f"not ready: {podman('logs', name).stderr[-3000:]}")
            time.sleep(0.1)
        yield container
    finally:
        podman("rm", "--force", "--time=0", name, check=False)


def test_a_dicom_is_scored_as_it_is_in_this_process(served, package, dicom):
    from pipeline.model.package import open_package
    from pipeline.model.runtime import Runtime
    from pipeline.model.scoring import score_bytes

    status, body = served.ask("/v1/scores", dicom)
    assert status == 200, body
    answer = json.loads(body)
    opened = open_package(package)
    here = score_bytes(opened, Runtime(opened), dicom)
    assert answer["image"]["prepared_sha256"] == here.image.prepared_sha256
    np.testing.assert_allclose(answer["logits"], here.logits, atol=1e-4)
    assert answer["verdict"] == here.verdict


CODECS = {  # transfer syntax -> the encoder of its codestreams
    "1.2.840.10008.1.2.4.50": "jpeg8",
    "1.2.840.10008.1.2.4.70": "ljpeg",
    "1.2.840.10008.1.2.4.80": "jpegls",
    "1.2.840.10008.1.2.4.90": "jpeg2k",
    # pydicom writes no JPEG XL; hilum goes by the codestream
    "1.2.840.10008.1.2.4.91": "jpegxl",
    "1.2.840.10008.1.2.5": "dicomrle",
}


def compressed(syntax, pixels):
    """Return a grey DICOM object with one compressed frame."""
    import imagecodecs
    from pydicom import dcmread
    from pydicom.encaps import encapsulate

    from tests.services import drawn_files as drawn

    made = dcmread(io.BytesIO(drawn.dicom(np.stack([pixels] * 3, axis=-1))))
    made.PhotometricInterpretation, made.SamplesPerPixel = "MONOCHROME2", 1
    del made.PlanarConfiguration
    if CODECS[syntax] == "dicomrle":  # PS3.5 annex G: one segment, of literal runs
        rows = [b"\x7f" + pixels.tobytes()[k : k + 128] for k in range(0, pixels.size, 128)]
        frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"".join(rows)
    else:
        frame = getattr(imagecodecs, f"{CODECS[syntax]}_encode")(pixels)
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "JPEG2000", *CODECS])
def test_every_kind_of_file_is_still_decoded(served, package, kind):
    """What `deploy/trim` takes out of the image must not be a codec that it needs."""
    from pipeline.model.package import open_package
    from pipeline.model.runtime import Runtime
    from pipeline.model.scoring import score_bytes
    from tests.services import drawn_files as drawn

    pixels = drawn.fundus(side=256)
    data = (
        compressed(kind, np.ascontiguousarray(pixels[:, :, 1]))
        if kind in CODECS
        else drawn.encoded(pixels, kind)
    )
    status, body = served.ask("/v1/scores", data)
    assert status == 200, body
    opened = open_package(package)
    here = score_bytes(opened, Runtime(opened), data)
    assert json.loads(body)["image"]["prepared_sha256"] == here.image.prepared_sha256


def test_a_broken_file_is_refused_and_the_service_stays(served, dicom):
    status, body = served.ask("/v1/scores", dicom[:2000])
    assert 400 <= status < 500
    assert json.loads(body)["status"] == status
    assert served.ready()


def test_the_processes_have_no_rights_and_can_write_nothing(served):
    assert served.run("id", "-u").stdout.strip() == "10001"
    facts = served.run("cat", "/proc/1/status").stdout
    rights = dict(line.split(":\t", 1) for line in facts.splitlines() if ":\t" in line)
    assert {rights[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert rights["NoNewPrivs"] == "1"
    for place in ("/", "/opt/hilum", "/model"):
        refused = served.run("touch", f"{place}/written")
        assert refused.returncode != 0
        assert "Read-only file system" in refused.stderr


def test_the_image_holds_the_code_of_this_tree(served):
    """A layer kept from an earlier build would serve yesterday's code."""
    program = (
        "import hashlib, json, pathlib, services;"
        "root = pathlib.Path(services.__file__).parents[1];"
        f"found = [p for name in {PACKAGES} for p in (root / name).rglob('*') if p.suffix != '.pyc'];"
        "print(json.dumps({str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()"
        " for p in found if p.is_file()}))"
    )
    there = json.loads(served.run("python", "-c", program).stdout)
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*")]
    here = {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and path.suffix != ".pyc"
    }
    assert there == here


def test_training_and_installers_are_not_in_the_image(served):
    program = (
        "import importlib.util as u;"
        "print([n for n in ('torch', 'torchvision', 'monai', 'mlflow', 'timm', 'pip', 'uv')"
        " if u.find_spec(n)])"
    )
    assert served.run("python", "-c", program).stdout.strip() == "[]"


def test_traces_can_be_sent_from_it(served):
    """With an address that nobody listens at: what sends is there, and sends nowhere else."""
    program = (
        "from services.inference.settings import ServiceSettings;"
        "from services.inference.traces import open_traces;"
        "traces = open_traces(ServiceSettings(traces='http://127.0.0.1:9/v1/traces'));"
        "traces.close();"
        "print('open')"
    )
    assert served.run("python", "-c", program).stdout.strip() == "open"


def test_nothing_is_left_for_a_vendor(served):
    """ONNX Runtime's telemetry keeps its queue in the home folder; ours are the figures of workers."""
    found = served.run("find", "/tmp", "-type", "f").stdout.split()  # noqa: S108
    assert [path for path in found if "/figures/" not in path] == []


def test_its_own_health_check_passes(served):
    assert podman("healthcheck", "run", served.name, check=False).returncode == 0


def told(line):
    """Print a figure, also where the test passes (pytest -s)."""
    sys.stdout.write(line + "\n")


def layers(name):
    """Return the digests of an image's layers, and their sizes summed."""
    found = json.loads(podman("image", "inspect", name).stdout)[0]
    return found["RootFS"]["Layers"], int(found["Size"])


def test_it_is_small(image, base):
    own, size = layers(image)
    under, under_size = layers(base)
    assert own[: len(under)] == under
    told(f"serve: {(size - under_size) / 1e6:.0f} MB without its base of {under_size / 1e6:.0f} MB")
    assert size - under_size < LARGEST_MB * 1e6


def test_its_packages_are_small(served):
    program = (
        "import pathlib, sysconfig;"
        "root = pathlib.Path(sysconfig.get_path('purelib'));"
        "own = ('configs', 'data_schemas', 'pipeline', 'services');"
        "print(sum(p.lstat().st_size for p in root.rglob('*') if p.is_file()"
        " and p.relative_to(root).parts[0] not in own))"
    )
    found = int(served.run("python", "-c", program).stdout)
    told(f"serve: {found / 1e6:.0f} MB of dependencies")
    assert found < LARGEST_PACKAGES_MB * 1e6


def test_it_holds_its_bill_of_materials(served):
    tree = json.loads(served.run("cat", "/opt/hilum/share/sbom.cdx.json").stdout)
    program = (
        "import importlib.metadata as m, json, sysconfig;"
        "found = m.distributions(path=[sysconfig.get_path('purelib')]);"
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in found}))"
    )
    there = json.loads(served.run("python", "-c", program).stdout)
    there.pop("hilum")
    purls = {each.get("purl", "") for each in tree["components"]}
    named = {each["name"]: each["version"] for each in tree["components"]}
    assert there.items() <= named.items()
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in purls)


def test_without_a_package_it_says_so_and_ends(image):
    result = podman("run", "--rm", *LOCKED_DOWN, "--network=none", image, check=False)
    assert result.returncode not in (0, 125, 126, 127)
    assert "no such package folder" in result.stderr


def test_it_ends_at_once_when_told_to(image, package):
    """SIGTERM reaches the service itself: the exit code is its own 0, not 137 or 143."""
    name = f"hilum-test-{uuid.uuid4().hex[:12]}"
    model = f"--volume={package}:/model:ro"
    podman("run", "--detach", f"--name={name}", *LOCKED_DOWN, "--network=none", model, image)
    try:
        ended = time.monotonic() + READY_S
        while '"ready"' not in podman("logs", name).stderr:
            assert time.monotonic() < ended
            time.sleep(0.2)
        podman("stop", "--time=40", name)
        code = podman("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip()
        assert code == "0", podman("logs", name).stderr[-3000:]
    finally:
        podman("rm", "--force", "--time=0", name, check=False)
