"""Isolated decoder processes: whatever one thing does to its worker, all others get their answers."""

import os
import resource
import signal
import time
from collections import defaultdict

import pytest

from pipeline.imaging.workers import AHEAD, Crew, End, WorkerLimits, limit_cpu, why_ended
from tests.ingest.taking_tasks import work

QUICK = WorkerLimits(seconds=3.0, memory_bytes=256 * 2**20)


def answers(things: list[str], count: int = 2, limits: WorkerLimits = QUICK) -> dict[str, list]:
    told = defaultdict(list)
    with Crew(work, count, limits) as crew:
        for thing, answer in crew.stream(things):
            told[thing].append(answer)
    return told


@pytest.mark.parametrize("count", [1, 2])
def test_a_bad_thing_costs_one_answer(count):
    good = [f"ok {k}" for k in range(40)]
    bad = {
        "hang 1": ("TIMED_OUT", "longer than 3 s"),
        "spin 1": ("TIMED_OUT", "longer than 3 s"),
        "crash 1": ("DECODER_DIED", "SIGSEGV"),
        "exit 1": ("DECODER_DIED", "exit code 3"),
        "eat 1": ("DECODER_DIED", "MemoryError"),
        "raise 1": ("DECODER_DIED", "ValueError"),
        "halfway 1": ("DECODER_DIED", "SIGKILL"),
    }
    things = good[:20] + list(bad) + good[20:]
    told = answers(things, count)
    assert set(told) == set(things)
    for thing in good:
        assert told[thing] == [thing.partition(" ")[2], End()]
    for thing, (code, words) in bad.items():
        end = told[thing][-1]
        assert isinstance(end, End)
        assert end.code == code, thing
        assert words in end.reason
        assert "patient" not in end.reason
    assert told["halfway 1"][0] == "first"


def test_answers_larger_than_a_pipe_and_things_too():
    things = [f"large {k} " + "x" * 500_000 for k in range(12)]
    told = answers(things, limits=WorkerLimits(seconds=30))
    assert [len(told[thing]) for thing in things] == [4] * 12
    assert all(len(told[thing][0]) == 3_000_000 for thing in things)


def test_both_workers_work_and_few_things_are_fetched_ahead():
    fetched = 0

    def source():
        nonlocal fetched
        for k in range(60):
            fetched += 1
            yield f"who {k}"

    pids, done = set(), 0
    with Crew(work, 2) as crew:
        for _, answer in crew.stream(source()):
            done += isinstance(answer, End)
            pids |= {answer} if isinstance(answer, int) else set()
            assert fetched <= done + 2 * AHEAD + 1
    assert len(pids) == 2


def test_a_slow_listener_is_not_the_workers_fault():
    with Crew(work, 1, WorkerLimits(seconds=2.0)) as crew:
        told = []
        for _, answer in crew.stream([f"large {k}" for k in range(3)]):
            time.sleep(0.9)
            told.append(answer)
    assert [end.code for end in told if isinstance(end, End)] == ["", "", ""]


def test_answers_nobody_waited_for_do_not_come_later():
    with Crew(work, 2, WorkerLimits(seconds=60)) as crew:
        for _ in crew.stream([f"who {k}" for k in range(8)]):
            break
        told = [(thing, answer) for thing, answer in crew.stream(["ok 9"])]
        assert told == [("ok 9", "9"), ("ok 9", End())]
        before = {worker.process.pid for worker in crew._workers}
        list(crew.stream(["ok 1", "ok 2"]))
        assert before <= {worker.process.pid for worker in crew._workers}


def test_a_crew_can_be_closed_in_the_middle():
    began = time.monotonic()
    with Crew(work, 2, WorkerLimits(seconds=60)) as crew:
        stream = crew.stream(["ok 1", "hang 1", "hang 2"])
        next(stream)
    assert time.monotonic() - began < 45


def ended(work):
    """Run ``work`` in a forked process; return its exit code, minus the signal's number."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    end = time.monotonic() + 120
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_limit_of_cpu_time_begins_anew_with_each_file(monkeypatch):
    granted = []
    monkeypatch.setattr(
        signal, "setitimer", lambda which, seconds: granted.append((which, seconds))
    )
    for _ in range(2):
        limit_cpu(30)
    # from now on, not from the process's birth: RLIMIT_CPU counts otherwise than this process can
    assert granted == [(signal.ITIMER_PROF, 32)] * 2
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY


def test_a_decoder_in_circles_ends_though_nobody_watches_it():
    def in_circles():
        limit_cpu(-1.8)  # two more than that
        busy(0.1)
        limit_cpu(-1.8)
        busy(20)

    code = ended(in_circles)
    assert code == -signal.SIGPROF
    assert why_ended(code, WorkerLimits(seconds=1), late=False).code == "TIMED_OUT"
