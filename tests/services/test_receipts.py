"""The receipt log: written by many at once, whole after a kill, and no change of it goes unseen."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.receipts.changes import CHANGES, changed
from data_schemas.errors import HilumError, UsageError
from data_schemas.receipt import FIRST, Key, Receipt, keys_of, line_of
from services.inference.journal import Journal
from services.inference.receipt_check import find_receipt, verify_log
from services.inference.receipt_files import anchors_in, files_of
from services.inference.receipts import Receipts

ROOT = Path(__file__).parents[2]
KEY = Key(bytes(range(32)))


def receipt(name="0"):
    return Receipt(
        score_id=name,
        time="2026-01-01T00:00:00.000Z",
        model_name="small",
        package_sha256="a" * 64,
        contract_sha256="b" * 64,
        runtime="onnxruntime 1.32.0 fp32",
        input_sha256="c" * 64,
        prepared_sha256="d" * 64,
        output_sha256="e" * 64,
        operating_point="default",
    )


def opened(folder, **options):
    return Receipts(folder, Journal(io.StringIO()), **options)


def write(folder, count=40, **options):
    log = opened(folder, **options)
    for number in range(count):
        log.append(receipt(f"score-{number}"))
    log.close()
    return folder


def kinds(found):
    return [flaw.kind for flaw in found.flaws]


def test_a_log_goes_over_several_files_and_verifies(tmp_path):
    write(tmp_path, 40, rotate_bytes=8000)
    files = files_of(tmp_path)
    assert len(files) > 3
    found = verify_log(tmp_path)
    assert (found.flaws, found.receipts, found.last, found.files) == ([], 40, 39, len(files))
    # any tool can check it: the digest is that of the bytes before it
    raw = files[0].read_bytes().splitlines()[0]
    line = json.loads(raw)
    assert line["previous"] == FIRST
    again, digest = line_of("receipt", receipt("score-0").model_dump(mode="json"), 0, FIRST)
    assert (again.rstrip(b"\n"), digest) == (raw, line["digest"])


def test_a_log_goes_on_where_it_ended(tmp_path):
    write(tmp_path, 3)
    write(tmp_path, 3)
    found = verify_log(tmp_path)
    assert (found.flaws, found.receipts, found.notes) == ([], 6, [])


def test_threads_and_processes_write_one_chain(tmp_path):
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.services.test_receipts import opened, receipt\n"
        "import threading, pathlib\n"
        "log = opened(pathlib.Path(sys.argv[1]), rotate_bytes=30000)\n"
        "def out(number): sys.stdout.write(f'{number}\\n')\n"
        "def some(name):\n"
        "    for n in range(25): out(log.append(receipt(f'{sys.argv[2]}-{name}-{n}')))\n"
        "threads = [threading.Thread(target=some, args=(t,)) for t in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(name)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in range(3)
    ]
    numbers = [int(n) for child in children for n in child.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(300))
    found = verify_log(tmp_path)
    assert (found.flaws, found.receipts) == ([], 300)
    assert found.files > 3


def test_a_forked_child_has_locks_of_its_own(tmp_path):
    log = opened(tmp_path)
    log.append(receipt())
    child = os.fork()
    if child == 0:
        try:
            for _ in range(50):
                log.append(receipt("child"))
        finally:
            os._exit(0)
    for _ in range(50):
        log.append(receipt("parent"))
    os.waitpid(child, 0)
    found = verify_log(tmp_path)
    assert (found.flaws, found.receipts) == ([], 101)


@pytest.mark.parametrize("kind", CHANGES)
def test_no_single_change_goes_unseen(tmp_path, kind):
    write(tmp_path / "log", 60, rotate_bytes=9000)
    chance = random.Random(kind)  # noqa: S311 - which byte, not a secret
    for _ in range(60):
        with changed(tmp_path / "log", kind, chance) as (name, line):
            found = verify_log(tmp_path / "log")
            assert found.flaws, (name, line)
            near = [abs(flaw.line - line) <= 1 for flaw in found.flaws if name in flaw.file]
            # a flaw at the seam of two files is told at the first line of the next
            assert any(near) or any(flaw.line in (0, 1) for flaw in found.flaws)
    assert verify_log(tmp_path / "log").flaws == []


def test_each_kind_of_flaw_has_its_name(tmp_path):
    folder = write(tmp_path, 10)
    (file,) = files_of(folder)
    lines = file.read_bytes().splitlines(keepends=True)

    def with_lines(changed_lines):
        file.write_bytes(b"".join(changed_lines))
        return verify_log(folder)

    found = with_lines([*lines[:3], *lines[5:]])
    assert kinds(found) == ["gap"]
    assert str(found.flaws[0]) == f"{file}:4: gap: missing before line 5: 3 to 4"
    assert kinds(with_lines([lines[1], lines[0], *lines[2:]])) == [
        *("reordered", "gap", "reordered", "gap")
    ]
    assert kinds(with_lines([*lines[:4], lines[3], *lines[4:]])) == ["reordered"]
    assert kinds(with_lines([*lines[:4], lines[4].replace(b"fp32", b"fp16"), *lines[5:]])) == [
        "edited"
    ]
    assert kinds(with_lines([*lines[:4], b"\n", *lines[4:]])) == ["edited"]
    assert kinds(with_lines(lines[:-2])) == ["cut"]
    assert kinds(with_lines([*lines[:-1], lines[-1][:-9]])) == ["torn", "edited", "cut"]
    assert kinds(with_lines(lines)) == []


def test_a_file_taken_away_is_a_gap_and_an_anchor_allows_for_old_ones(tmp_path):
    folder = write(tmp_path, 40, rotate_bytes=8000)
    first, second, *_ = files_of(folder)
    last = json.loads(first.read_bytes().splitlines()[-1])
    kept = second.read_bytes()
    second.unlink()
    found = verify_log(folder)
    assert kinds(found) == ["gap"]
    second.write_bytes(kept)
    first.unlink()
    assert kinds(verify_log(folder)) == ["gap"]
    found = verify_log(folder, anchors={last["number"]: last["digest"]})
    assert found.flaws == []
    assert "anchor" in found.notes[0]


def made_anew(folder, count, key=None):
    for path in folder.iterdir():
        path.unlink()
    return write(folder, count, key=key)


def test_a_log_made_anew_passes_without_a_key_and_fails_with_one_or_an_anchor(tmp_path):
    folder = write(tmp_path / "log", 12, key=KEY)
    found = verify_log(folder, keys=[KEY])
    assert (found.flaws, found.sealed) == ([], 12)
    anchor = {found.last: found.digest}
    made_anew(folder, 12)
    assert verify_log(folder).flaws == []
    assert set(kinds(verify_log(folder, keys=[KEY]))) == {"unsealed"}
    assert kinds(verify_log(folder, anchors=anchor)) == ["edited"]
    made_anew(folder, 11, key=KEY)
    assert kinds(verify_log(folder, keys=[KEY])) == []
    assert kinds(verify_log(folder, anchors=anchor)) == ["cut"]
    made_anew(folder, 12, key=Key(b"of somebody else" * 2))
    assert set(kinds(verify_log(folder, keys=[KEY]))) == {"unsealed"}


def test_keys_change_within_a_log(tmp_path):
    new = Key(b"another key of 32 bytes or more!")
    write(tmp_path, 3)
    write(tmp_path, 3, key=KEY)
    write(tmp_path, 3, key=new)
    assert verify_log(tmp_path, keys=[new, KEY]).flaws == []
    assert kinds(verify_log(tmp_path, keys=[KEY])) == ["unsealed"] * 4
    with pytest.raises(HilumError, match="32 hex digits"):
        keys_of("abc\n", where="file")
    assert keys_of(f"# ours\n{'ab' * 32}\n", where="file")[0].secret == b"\xab" * 32


def test_anchors_come_from_the_services_log_or_as_words():
    said = json.dumps({"event": "receipts_anchor", "number": 7, "digest": "f" * 64})
    assert anchors_in(f"{said}\n9:{'0' * 64}\nsomething else\n") == {7: "f" * 64, 9: "0" * 64}


def test_a_torn_end_is_kept_aside_and_told(tmp_path):
    folder = write(tmp_path, 5)
    (file,) = files_of(folder)
    with file.open("ab") as stream:
        stream.write(b'{"contract_sha256":"half a li')
    assert kinds(verify_log(folder)) == ["torn", "edited"]
    journal = io.StringIO()
    log = Receipts(folder, Journal(journal))
    assert log.append(receipt()) == 6
    found = verify_log(folder)
    assert (found.flaws, found.receipts) == ([], 6)
    assert "29 bytes" in found.notes[0]
    (aside,) = folder.glob("torn-*.bin")
    assert aside.read_bytes() == b'{"contract_sha256":"half a li'
    assert "receipts_mended" in journal.getvalue()


def test_a_new_file_that_holds_only_half_a_line_is_mended(tmp_path):
    folder = write(tmp_path, 40, rotate_bytes=8000)
    last = files_of(folder)[-1]
    last.write_bytes(last.read_bytes()[:100])
    head = folder / "head.json"
    count = verify_log(folder).last
    facts = {"schema_version": 1, "time": "", "file": last.name}
    tip = json.loads(files_of(folder)[-2].read_bytes().splitlines()[-1])
    line, _ = line_of("head", facts, tip["number"], tip["digest"])
    head.write_bytes(line[:-1].ljust(767) + b"\n")
    assert count == tip["number"]
    log = opened(folder)
    assert log.append(receipt()) == tip["number"] + 2
    assert verify_log(folder).flaws == []


@pytest.mark.parametrize("cut", ["lines", "file", "head"])
def test_a_cut_log_is_not_gone_on_with(tmp_path, cut):
    folder = write(tmp_path, 40, rotate_bytes=8000)
    last = files_of(folder)[-1]
    if cut == "lines":
        last.write_bytes(b"".join(last.read_bytes().splitlines(keepends=True)[:-1]))
    elif cut == "file":
        last.unlink()
    else:
        (folder / "head.json").unlink()
    with pytest.raises(HilumError):
        opened(folder)
    assert "cut" in kinds(verify_log(folder))


def test_a_folder_that_cannot_be_made_is_said_at_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="receipts can't be kept"):
        opened(tmp_path / "file" / "log")


def test_killed_writers_leave_a_log_that_goes_on(tmp_path):
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.services.test_receipts import opened, receipt\n"
        "import pathlib\n"
        "log = opened(pathlib.Path(sys.argv[1]), rotate_bytes=50000)\n"
        "while True: print(log.append(receipt(sys.argv[2])), flush=True)\n"
    )
    told = set()
    for turn in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(turn)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        first = int(child.stdout.readline())
        time.sleep(0.2 + 0.1 * turn)
        child.send_signal(signal.SIGKILL)
        rest = child.communicate()[0].splitlines(keepends=True)
        told |= {first, *(int(line) for line in rest if line.endswith("\n"))}
    found = verify_log(tmp_path)
    assert found.flaws == [] or set(kinds(found)) == {"torn", "edited"}
    opened(tmp_path).append(receipt("last"))
    found = verify_log(tmp_path)
    assert found.flaws == []
    assert max(told) < found.last
    assert len(told) >= 3


def test_a_receipt_is_found_by_its_score(tmp_path):
    folder = write(tmp_path, 40, rotate_bytes=8000)
    kept, file, line = find_receipt(folder, "score-33")
    assert kept == receipt("score-33")
    assert json.loads(Path(file).read_bytes().splitlines()[line - 1])["score_id"] == "score-33"
    with pytest.raises(UsageError, match="no receipt"):
        find_receipt(folder, "score-40")


def test_a_verification_beside_a_writing_service_sees_whole_lines(tmp_path):
    log = opened(tmp_path, rotate_bytes=40000)
    log.append(receipt())
    stop = threading.Event()

    def go_on():
        while not stop.is_set():
            log.append(receipt())

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        for _ in range(25):
            assert verify_log(tmp_path).flaws == []
    finally:
        stop.set()
        writer.join()


def test_a_log_of_the_service_without_room_refuses_nobody(tmp_path):
    with Path("/dev/full").open("w") as full:
        journal = Journal(full)
        log = Receipts(tmp_path, journal)
        assert log.append(receipt()) == 0
        journal.write("said")
        full.write = lambda _: None
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
