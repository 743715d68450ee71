"""The interface fuzzed on a real server: schemathesis over its OpenAPI, mutated images, every known bomb.

The short forms; `make test-fuzz` runs the long ones (HILUM_FUZZ bodies, HILUM_FUZZ_EXAMPLES examples
for each operation) and prints the figures.
"""

import collections
import concurrent.futures
import contextlib
import csv
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading

import pytest
from PIL import Image

from data_schemas.contract import Contract
from tests.services import drawn_files as drawn
from tests.services.conftest import ROOT, serving, shared, wait_until_ready, write_package
from tests.services.test_load import tree_bytes
from tests.services.test_scores import check_alive

BODIES = int(os.environ.get("HILUM_FUZZ", "300"))
EXAMPLES = int(os.environ.get("HILUM_FUZZ_EXAMPLES", "3"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
MOST_MEMORY = int(1.5 * 2**30)
LARGEST = 400_000
"""Bytes of a file that is mutated: damage is the same in a larger one, and takes longer."""


@pytest.fixture(scope="module")
def anything(tmp_path_factory):
    """A service whose contract takes any image, so that files get as far as they can."""
    place = tmp_path_factory.mktemp("fuzzed")
    package = write_package(place / "package", Contract(name="any", size=64, channels=3))
    with serving(package.folder, place / "log") as running:
        wait_until_ready(running)
        yield running


@contextlib.contextmanager
def watched(served):
    """Yield a list whose only value is the most memory that the processes took together so far (PSS)."""
    most, over = [0], threading.Event()

    def watch():
        while not over.wait(0.02):
            most[0] = max(most[0], tree_bytes(served.process.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        over.set()
        watching.join()


def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(anything, tmp_path):
    config = tmp_path / "schemathesis.toml"
    # a random patience is mostly one that nobody can keep; a random name is no model's
    config.write_text('[parameters]\n"X-Request-Timeout" = "60"\nname = "small-fundus"\n')
    words = ["-m", "schemathesis.cli", "--config-file", str(config)]
    words += [
        "run",
        f"{anything.url}/openapi.json",
        "--no-color",
        "--checks",
        ",".join(CHECKS),
        "--seed",
        "1",
        "--max-examples",
        str(EXAMPLES),
    ]
    words += ["--phases", "examples,coverage,fuzzing" if EXAMPLES > 3 else "examples,fuzzing"]
    environment = {"SCHEMATHESIS_HOOKS": "tests.services.fuzz_hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment, "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    told(re.search(r"\d+ generated, \d+ passed", done.stdout)[0])
    told(str(sorted(statuses(anything).items())))
    assert statuses(anything)["/v1/scores 200"]
    assert statuses(anything)["/invocations 200"]
    assert faults(anything) == []


def faults(served):
    return [line for line in served.log.read_text().splitlines() if '"event": "fault"' in line]


def statuses(served):
    """Return how often each route answered each status."""
    lines = map(json.loads, served.log.read_text().splitlines())
    found = (f"{one['route']} {one['status']}" for one in lines if one["event"] == "request")
    return collections.Counter(found)


def told(text):
    sys.stdout.write(text + "\n")


def real_files():
    """Return real files as (name, bytes): DICOM of every syntax in the index, photographs, PNG of them."""
    index = shared("dicom", "index.csv")
    with index.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if int(row["bytes"]) <= LARGEST]
    files = [(row["file"], (index.parent / row["file"]).read_bytes()) for row in rows]
    for path in sorted(shared("fundus_rahim", "images").glob("*.jpg"))[:60]:
        data = path.read_bytes()
        files.append((path.name, data))
        with Image.open(path) as picture:
            stream = io.BytesIO()
            picture.convert("RGB").resize((200, 200)).save(stream, "PNG")
        files.append((f"{path.stem}.png", stream.getvalue()))
    return files


def mutated(data, other, draw):
    """Return ``data`` damaged in one of the ways in which files are."""
    place = draw.randrange(len(data))
    # half of the damage goes where the headers are
    if draw.random() < 0.5:
        place = draw.randrange(min(len(data), 1024))
    length = draw.choice((1, 2, 4, 16, 300, 5000))
    middle = data[place : place + length]
    kind = draw.randrange(8)
    if kind == 0:
        flipped = bytearray(data)
        for _ in range(draw.choice((1, 3, 20, 200))):
            flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    return (
        data[:place]
        + {
            1: b"",
            2: data[place + length :],
            3: middle + data[place:],
            4: draw.randbytes(len(middle)) + data[place + length :],
            5: draw.choice((b"\xff", b"\0", b"\x7f")) * len(middle) + data[place + length :],
            6: draw.randbytes(length) + data[place:],
            7: other[draw.randrange(len(other)) :],
        }[kind]
    )


def test_mutated_images_are_answered_and_memory_stays(anything):
    files, draw = real_files(), random.Random(13)  # noqa: S311 - the same damage every time
    documented = set()
    with anything.client() as client:
        responses = client.get("/openapi.json").json()["paths"]["/v1/scores"]["post"]["responses"]
        documented = {int(status) for status in responses}
    bodies = (
        mutated(draw.choice(files)[1], draw.choice(files)[1], draw) for _ in itertools.count()
    )
    counts, lock = collections.Counter(), threading.Lock()

    def send(place):
        with lock:
            body = next(bodies)
        query = ("", "?evidence=both", "?embedding=true&points=all")[place % 3]
        if not body:
            return
        answer = client.post(f"/v1/scores{query}", content=body)
        code = answer.json().get("code", "scored")
        with lock:
            counts[f"{answer.status_code} {code}"] += 1
        assert answer.status_code < 500, (place, answer.text)
        assert answer.status_code in documented

    with (
        anything.client() as client,
        watched(anything) as most,
        concurrent.futures.ThreadPoolExecutor(4) as clients,
    ):
        list(clients.map(send, range(BODIES)))
    told(
        f"{BODIES} mutated bodies: {dict(counts.most_common())}; {most[0] / 2**20:.0f} MiB at most"
    )
    assert most[0] < MOST_MEMORY
    assert faults(anything) == []
    with anything.client() as client:
        check_alive(client)


def test_every_bomb_is_answered_within_memory(anything):
    index = shared("dicom", "index.csv")
    with index.open(newline="") as stream:
        bombs = [row for row in csv.DictReader(stream) if "bomb" in row["source_path"]]
    assert len(bombs) >= 7
    bodies = {row["file"]: (index.parent / row["file"]).read_bytes() for row in bombs}
    bodies["PNG of 9900 x 9900"] = drawn.png_of_zeros(9900, 9900)
    found = {}

    def send(name):
        with anything.client() as client:
            answer = client.post("/v1/scores?evidence=both", content=bodies[name])
        found[name] = f"{answer.status_code} {answer.json().get('code', 'scored')}"
        assert answer.status_code < 500, (name, answer.text)

    with watched(anything) as most, concurrent.futures.ThreadPoolExecutor(2) as clients:
        # each beside another one, whichever it is
        list(clients.map(send, [*bodies, *reversed(bodies)]))
    told(f"bombs: {found}; {most[0] / 2**20:.0f} MiB at most")
    assert most[0] < MOST_MEMORY
    with anything.client() as client:
        check_alive(client)


TENSOR = b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,64,64,3],"data":['
SWELLING = {
    "more lists than it may": (b'{"instances":[' + b"[],[]," * 3_000_000 + b"[]]}", "json"),
    "lists": (b'{"instances":[' + b"[]," * 900_000 + b"[]]}", "json"),
    "numbers": (b'{"inputs":[' + b"0.1," * 1_900_000 + b"1]}", "json"),
    "keys": (b'{"params":{' + b",".join(b'"%d":1' % k for k in range(900_000)) + b"}}", "json"),
    "one wide character": (b'{"inputs":["\xf0\x9f\x98\x80' + b"a" * 60_000_000 + b'"]}', "json"),
    "words": (b'{"instances":["' + b"a " * 30_000_000 + b'"]}', "json"),
    "depth": (b"[" * 3_000_000, "json"),
    "one long pixel": (TENSOR + b'"' + b"a" * 4000 + b'","b"' * 900_000 + b"]}]}", "v2"),
    "many tensors": (b'{"inputs":[' + b'{"name":1},' * 900_000 + b"{}]}", "v2"),
    "empty parts": (b"--x\r\n\r\n\r\n" * 1_000_000 + b"--x--\r\n", "form"),
    "one header": (b"--x\r\nA: " + b"a" * 20_000_000, "form"),
}
"""Much memory, or much work, from few bytes."""


def test_bodies_that_swell_when_read_are_refused_within_memory(anything):
    doors = {
        "json": ("/invocations", "application/json"),
        "v2": ("/v2/models/small-fundus/infer", "application/json"),
        "form": ("/v1/scores:batch", "multipart/form-data; boundary=x"),
    }
    found = {}

    def send(name):
        body, kind = SWELLING[name]
        door, media = doors[kind]
        with anything.client() as client:
            answer = client.post(door, content=body, headers={"Content-Type": media})
        found[name] = f"{answer.status_code} {answer.json()['code']}"
        assert 400 <= answer.status_code < 500, (name, answer.text)

    with watched(anything) as most, concurrent.futures.ThreadPoolExecutor(3) as clients:
        list(clients.map(send, SWELLING))
    told(f"swelling: {found}; {most[0] / 2**20:.0f} MiB at most")
    assert most[0] < MOST_MEMORY
