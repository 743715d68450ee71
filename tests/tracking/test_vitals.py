"""What a heartbeat tells of the end of a run whose process died without a word."""

import json
import time

import pytest

from pipeline.tracking import endings, reaper, store, vitals
from pipeline.tracking.runs import tracked_run


def beat(**changed):
    told = {"at": time.time(), "process_mb": 900, "used_mb": 1500, "limit_mb": 8192}
    return json.dumps({**told, "oom_kills": vitals.oom_kills(), **changed})


def test_a_heartbeat_holds_what_the_reaper_needs():
    told = json.loads(vitals.heartbeat())
    assert abs(told["at"] - time.time()) < 5
    assert 10 < told["process_mb"] < told["used_mb"] <= told["limit_mb"]
    assert not vitals.is_silent(vitals.heartbeat())


def test_gauges_read_processor_memory_and_disk():
    gauges = vitals.Gauges()
    gauges.read()
    found = gauges.read()
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100
    assert found["system/system_memory_usage_megabytes"] > 100
    assert all(name.startswith("system/") for name in found)


def test_want_of_memory_is_named_where_it_is_likely(monkeypatch):
    plain = vitals.last_words(beat(), same_machine=True)
    assert "memory at 1.5 of 8.0 GB, 0.9 GB of it this process" in plain
    assert "learning.batch" not in plain
    scarce = vitals.last_words(beat(used_mb=8000), same_machine=False)
    assert "learning.batch" in scarce
    before = beat()
    monkeypatch.setattr(vitals, "oom_kills", lambda: json.loads(before)["oom_kills"] + 1)
    if json.loads(before)["oom_kills"] >= 0:
        assert "the kernel has since ended a process" in vitals.last_words(
            before, same_machine=True
        )
    assert "the kernel" not in vitals.last_words(before, same_machine=False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": "x"}', "null"])
def test_a_tag_that_is_no_heartbeat_tells_nothing(text):
    assert vitals.last_words(text, same_machine=True) == ""
    assert not vitals.is_silent(text)


@pytest.mark.parametrize(
    ("host", "age_s", "status"),
    [("elsewhere", 60, "RUNNING"), ("elsewhere", 16 * 60, "FAILED"), ("here", 16 * 60, "RUNNING")],
)
def test_only_the_silence_of_another_machine_counts(mlflow_uri, host, age_s, status):
    client = store.open_client(mlflow_uri)
    with tracked_run(mlflow_uri, "eyes", "other") as run:
        run.flush()
        if host != "here":
            client.set_tag(run.run_id, "hilum.host", host)
        client.set_tag(run.run_id, vitals.HEARTBEAT_TAG, beat(at=time.time() - age_s))
        reaper.close_dead_runs(client, run.experiment_id)
        found = client.get_run(run.run_id)
        assert found.info.status == status
        if status == "FAILED":
            assert "went silent" in found.data.tags[endings.FAILURE_TAG]
            assert "memory at 1.5 of 8.0 GB" in found.data.tags[endings.FAILURE_TAG]
