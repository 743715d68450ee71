"""Real files, damaged: an Instance or an ImageError, nothing else, within a limit of memory and time."""

import csv
import subprocess
import sys
import textwrap
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_schemas.contract import Accept, Contract, Limits
from data_schemas.dataset import REFUSALS
from data_schemas.errors import ImageError
from pipeline.imaging.instance import Instance
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import instances

pytestmark = pytest.mark.needs_shared

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "../shared/data/dicom"
CONTRACTS = [
    Contract(
        name="every",
        accept=Accept(frames="every"),
        limits=Limits(pixels=2_000_000),
        size=16,
    ),
    Contract(
        name="breast",
        accept=Accept(frames="middle"),
        limits=Limits(pixels=2_000_000),
        region="breast",
        size=16,
    ),
]
QUIET = settings(
    deadline=None,
    max_examples=120,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


@pytest.fixture(scope="module")
def small(shared_dicom) -> list[bytes]:
    """Return the smallest decodable files of each transfer syntax and photometric interpretation."""
    with (shared_dicom / "index.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["decodes_imagecodecs"] == "yes"]
    chosen: dict[tuple[str, str, bool], dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: int(row["bytes"])):
        several = (row["frames"] or "1") != "1"
        chosen.setdefault((row["transfer_syntax_uid"], row["photometric"], several), row)
    return [(shared_dicom / row["file"]).read_bytes() for row in chosen.values() if int(row["bytes"]) < 60_000]  # fmt: skip


def check(data: bytes, contract: Contract) -> None:
    answers = []
    try:
        for found in islice(instances(data, contract), 4):
            if isinstance(found, ImageError):
                answers.append(found.code if found.what else "no words")
                continue
            assert isinstance(found, Instance)
            assert prepare(found, contract).pixels.shape == (16, 16, 3)
    except ImageError as error:
        answers.append(error.code if error.what else "no words")
    assert set(answers) <= set(REFUSALS)


def pick(small: list[bytes], share: float) -> bytes:
    return small[int(share * len(small))]


UNIT = st.floats(0, 1, exclude_max=True)


@QUIET
@given(UNIT, st.lists(st.tuples(UNIT, st.integers(0, 7)), min_size=1, max_size=12), st.booleans())
def test_bits_flipped(small, which, flips, early):
    data = bytearray(pick(small, which))
    # half of the time in the header, where it hurts most
    reach = min(len(data), 1200) if early else len(data)
    for share, bit in flips:
        data[int(share * reach)] ^= 1 << bit
    for contract in CONTRACTS:
        check(bytes(data), contract)


@QUIET
@given(UNIT, UNIT)
def test_cut(small, which, share):
    data = pick(small, which)
    for contract in CONTRACTS:
        check(data[: int(share * len(data))], contract)


@QUIET
@given(UNIT, UNIT, st.floats(0.1, 0.9))
def test_one_files_header_with_the_others_pixels(small, one, two, share):
    head, tail = pick(small, one), pick(small, two)
    place = head.rfind(b"\xe0\x7f\x10\x00")
    other = tail.rfind(b"\xe0\x7f\x10\x00")
    if place > 0 and other > 0:
        check(head[:place] + tail[other:], CONTRACTS[0])
    check(head[: int(share * len(head))] + tail[int(share * len(tail)) :], CONTRACTS[0])


@QUIET
@given(UNIT, UNIT, st.sampled_from([b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff", b"\0\0\0\0", b"\xff\xff", b"SQ\0\0\xff\xff\xff\xff"]))  # fmt: skip
def test_lengths_that_lie(small, which, share, claim):
    data = bytearray(pick(small, which))
    at = int(share * min(len(data), 2000))
    data[at : at + len(claim)] = claim
    for contract in CONTRACTS:
        check(bytes(data), contract)


def test_damaged_files_within_a_limit_of_memory(shared_dicom):
    """600 damaged files in one process that may not grow by more than 1 GiB of address space."""
    script = textwrap.dedent("""
        import random, resource, sys
        from pathlib import Path
        from data_schemas.contract import Accept, Contract
        from data_schemas.errors import ImageError
        from pipeline.imaging.prepare import prepare
        from pipeline.imaging.read import read
        contract = Contract(name="any", accept=Accept(frames="first"), size=16)
        files = sorted(Path(sys.argv[1]).glob("*.dcm"), key=lambda path: path.stat().st_size)[60:260]
        for path in files[:40]:
            try:
                read(path.read_bytes(), contract)
            except ImageError:
                pass
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
        chance = random.Random(7)
        answers = {}
        for turn in range(600):
            data = bytearray(chance.choice(files).read_bytes())
            for _ in range(chance.randint(1, 12)):
                data[chance.randrange(min(len(data), 3000))] = chance.randrange(256)
            if turn % 3 == 0:
                data = data[: chance.randrange(1, len(data))]
            try:
                prepare(read(bytes(data), contract), contract)
                answer = "image"
            except ImageError as error:
                answer = error.code
            answers[answer] = answers.get(answer, 0) + 1
        print(sum(answers.values()), answers)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(shared_dicom)], cwd=ROOT, check=False, timeout=600,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("600 ")
