"""The same rows from Ray as from this machine. ``make test-ray`` starts a real Ray; here its actor is called alone."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from data_schemas.progress import silent
from pipeline.batch.score import PRELOAD, Options, score_sources
from pipeline.batch.task import Model, carried, score_file
from pipeline.imaging.workers import End, WorkerLimits
from pipeline.ingest import ray_engine
from pipeline.ingest.sources.open import open_source
from pipeline.model.runtime import Runtime
from tests.batch.drawn_files import draw_folder

ROOT = Path(__file__).parents[2]


def test_a_ray_actor_scores_with_the_package_it_is_sent(binary_package, tmp_path):
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    draw_folder(tmp_path / "in", 20)
    files = open_source(str(tmp_path / "in"), progress=silent).files
    runtime = Runtime(binary_package).identity
    elsewhere = Model("/nowhere", binary_package.sha256, runtime, "7", carried(binary_package))
    task = cloudpickle.loads(cloudpickle.dumps(partial(score_file, model=elsewhere)))
    taker = ray_engine._Taker(task, WorkerLimits(), PRELOAD)
    told = dict(one for some in taker.take(range(len(files)), files) for one in some)
    taker._crew.close()
    assert sorted(told) == list(range(20))
    assert all(said[-1] == End() and len(said) == 2 for said in told.values())
    here = Model(str(binary_package.folder), binary_package.sha256, runtime, "7")
    assert [told[k][0] for k in range(20)] == [score_file(file, here)[0] for file in files]


@pytest.mark.slow
@pytest.mark.skipif("HILUM_RAY" not in os.environ, reason="half a minute: make test-ray")
def test_ray_writes_the_same_bytes(binary_package, tmp_path):
    draw_folder(tmp_path / "in", 200)
    local, ray = tmp_path / "local.parquet", tmp_path / "ray.parquet"
    score_sources(binary_package, [str(tmp_path / "in")], local, Options(workers=1))
    words = ["score", tmp_path / "in", "--model", binary_package.folder, "--engine", "ray"]
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", *words, "--out", ray],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ray.read_bytes() == local.read_bytes()
