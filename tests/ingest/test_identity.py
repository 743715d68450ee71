"""No identity leaves ingestion: every byte that any command writes is searched for what was planted."""

import base64
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.ingest import planted

ROOT = Path(__file__).parents[2]
KEY = "a key for tests of identity only"


def command(*words, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", *map(str, words)],
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(cwd),
            "PYTHONPATH": str(ROOT),
            "HILUM_PSEUDONYM_KEY": KEY,
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def spoken(*words, cwd, code=0):
    """Run to the end, check the exit code, return stdout and stderr as they were."""
    process = command(*words, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err.decode()
    return out + err


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    planted.plant(folder)
    return folder


@pytest.mark.parametrize("word", planted.PLANTED)
def test_everything_is_planted_and_the_search_finds_it(word, archive, all_traces):
    assert word in all_traces


@pytest.fixture(scope="module")
def all_traces(archive):
    return set().union(*planted.traces_below(archive).values())


@pytest.mark.parametrize(
    "hide",
    [
        lambda word: word.encode(),
        lambda word: word.upper().encode(),
        lambda word: word.encode("utf-16-le"),
        lambda word: word.encode("latin-1"),
        lambda word: word.encode().hex().encode(),
        lambda word: base64.b64encode(b"x" + word.encode() + b"yz"),
        lambda word: planted.zlib.compress(word.encode() * 3),
        lambda word: planted.gzip.compress(word.encode()),
    ],
)
def test_the_search_finds_a_hidden_word(hide):
    assert planted.traces(bytes(50) + hide("Überröther") + b"end" if hide("a")[:2] != b"\x1f\x8b" else hide("Überröther")) == {"Überröther"}  # fmt: skip
    assert planted.traces(b"nothing of the kind" * 100) == set()


def test_the_search_finds_a_word_in_a_table(tmp_path):
    table = planted_table(["x", "Brunhilde ZTXT-BRUNHILDE"])
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd")
    assert planted.traces_below(tmp_path) == {"t.parquet": {"ZTXT-BRUNHILDE"}}


def planted_table(values):
    import pyarrow as pa

    return pa.table({"word": values})


@pytest.mark.parametrize("flags", [("--json",), ("--debug",)], ids=["json", "debug"])
def test_ingest_lets_nothing_through(flags, archive, tmp_path):
    out = tmp_path / "dataset"
    said = spoken("ingest", archive, "--labels", archive / "labels.csv", "--label", "grade",
                  "--out", out, "--set", "size=32", "--name", "planted", *flags, cwd=tmp_path)  # fmt: skip
    assert pq.read_table(out / "manifest.parquet").num_rows >= 6
    assert pq.read_table(out / "refusals.parquet").num_rows >= 3
    assert planted.traces(said) == set()
    assert planted.traces_below(tmp_path) == {}


def test_ingest_without_labels_lets_nothing_through(archive, tmp_path):
    said = spoken("ingest", archive, "--out", tmp_path / "dataset", "--set", "size=32",
                  "--name", "planted", cwd=tmp_path)  # fmt: skip
    assert planted.traces(said) == set()
    assert planted.traces_below(tmp_path) == {}


FAULTS = {
    "no such file": "image,patient,grade\nFOLDER-SIEGLINDE/Zwanzigmann Quirina.jpg,KH-4711-0815-Q,1\n",
    "twice": "image,patient,grade\n"
    + "FOLDER-SIEGLINDE/Zwanzigmann/text.png,KH-4711-0815-Q,1\n" * 2,
    "no number": "image,patient,grade\nFOLDER-SIEGLINDE/Zwanzigmann/text.png,KH-4711-0815-Q,Zwanzigmann\n",
    "no eye": "image,patient,laterality,grade\nFOLDER-SIEGLINDE/Zwanzigmann/text.png,KH-4711-0815-Q,Quirina,1\n",
    "no split": "image,patient,split,grade\nFOLDER-SIEGLINDE/Zwanzigmann/text.png,KH-4711-0815-Q,Quirina,1\n",
    "leads out": "image,patient,grade\n../../Zwanzigmann/KH-4711-0815-Q.png,KH-4711-0815-Q,1\n",
}


@pytest.mark.parametrize(
    ("fault", "debug"),
    [(fault, ("--debug",)) for fault in FAULTS] + [("no such file", ()), ("no number", ())],
)
def test_failures_name_lines_and_nobody(fault, debug, archive, tmp_path):
    table = tmp_path / "faulty.csv"
    table.write_text(FAULTS[fault], encoding="utf-8")
    process = command("ingest", archive, "--labels", table, "--out", tmp_path / "dataset",
                      "--set", "size=32", *debug, cwd=tmp_path)  # fmt: skip
    out, err = process.communicate(timeout=120)
    table.unlink()
    assert planted.traces(out + err) == set()
    assert planted.traces_below(tmp_path) == {}


@pytest.mark.parametrize("name", ["ingest", "deidentify"])
def test_a_killed_run_leaves_nothing_behind(name, archive, tmp_path):
    """SIGKILL while files lie half-made: what is left is searched, too."""
    source = tmp_path / "many"
    source.mkdir()
    for number in range(60):
        (source / f"{number}.dcm").write_bytes(planted.dicom(200 + number))
    work = tmp_path / "work"
    work.mkdir()
    if name == "ingest":
        words = ["ingest", source, "--out", work / "out", "--set", "size=64"]
    else:
        words = ["deidentify", source, work / "out"]
    process = command(*words, cwd=tmp_path)
    made = 0
    while process.poll() is None and made < 20_000:
        made = sum(path.stat().st_size for path in list(work.rglob("*")) if path.is_file())
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert any(work.rglob("*"))
    assert planted.traces(out + err) == set()
    assert planted.traces_below(work) == {}


OPTIONS = {
    "plain": (["--json"], set()),
    "shifted": (["--dates", "shift", "--keep-burned-in"], {"142536.123456"}),
    "kept dates": (["--dates", "keep"], {"142536.123456", "20191224"}),
    "retained": (
        [
            word
            for name in ("device", "institution", "patient", "uids")
            for word in ("--retain", name)
        ],
        {"SERIAL-55512", "STATIONX77", "St. Hildegund Hospital", *planted.UIDS.values()},
    ),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_deidentify_lets_nothing_through_but_what_was_asked_for(options, archive, tmp_path):
    words, asked = OPTIONS[options]
    out = tmp_path / "clean"
    said = spoken("deidentify", archive, out, *words, "--debug", cwd=tmp_path)
    log = pq.read_table(out / "deidentified.parquet").to_pylist()
    assert sum(row["status"] == "written" for row in log) >= 10
    assert planted.traces(said) == set()
    found = set().union(set(), *planted.traces_below(tmp_path).values())
    assert found == asked


@pytest.mark.slow
def test_a_trained_run_lets_nothing_through(archive, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    rows = ["image,patient,grade"]
    for number in range(24):
        (source / f"Zwanzigmann {number}.jpg").write_bytes(planted.photograph(number))
        rows.append(f"Zwanzigmann {number}.jpg,TABLEPATIENT-4242 {number},{number % 2}")
    (source / "labels.csv").write_text("\n".join(rows) + "\n")
    work = tmp_path / "work"
    work.mkdir()
    said = spoken("ingest", source, "--labels", source / "labels.csv", "--out", work / "dataset",
                  "--set", "size=32", cwd=work)  # fmt: skip
    said += spoken("plan", work / "dataset", "--set", "network.backbone=convnet", "--set", "learning.epochs=1", cwd=work)  # fmt: skip
    said += spoken("train", work / "dataset", "--accept-leaks", cwd=work)
    assert {file.name for file in (work / "dataset").iterdir()} >= {"plan.yaml", "fingerprint.json"}
    assert list(work.rglob("mlflow.db"))
    assert planted.traces(said) == set()
    assert planted.traces_below(work) == {}
