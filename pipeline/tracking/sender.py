"""The thread that brings a run's letters to the store, measures the machine and shows that it lives.

Training never waits for it. While the store is away the letters wait, too, in their outbox, and go
in order, with their own times, when it is back.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from data_schemas.errors import TrackingError
from pipeline.tracking import vitals
from pipeline.tracking.delivery import AwayError, Delivery, RefusedError, together
from pipeline.tracking.outbox import Letter, Outbox, now_ms
from pipeline.tracking.store import answers

Say = Callable[[str], None]


def silent(_text: str) -> None:
    """Hear nothing."""


GAUGES_EVERY_S = 10.0
HEARTBEAT_EVERY_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between two tries at a store that is away; each pause is twice the one before."""
CROWDED = 2000
"""With so many letters waiting the machine is no longer measured."""
NEVER = float("inf")


class Sender:
    """Sends what is posted, in a thread of its own, until :meth:`join`."""

    def __init__(
        self, outbox: Outbox, delivery: Delivery, say: Say = silent, *, patient: bool = False
    ) -> None:
        """With ``patient``, letters may outlive the process; ``say`` hears when they begin to wait."""
        self.outbox, self.say, self.patient = outbox, say, patient
        self.busy_s = 0.0  # processor time of the thread
        self._delivery = delivery
        self._changed = threading.Condition()
        self._stopping = self._hurry = False
        self._away: AwayError | None = None
        self._refused: TrackingError | None = None
        self._gauges: vitals.Gauges | None = None
        self._gauge_step = 0
        self._next_gauge = self._next_beat = NEVER
        self._next_try, self._pause = 0.0, FIRST_PAUSE_S
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def post(self, kind: str, body: Mapping[str, Any]) -> None:
        """Hand a letter over: written down before this returns, sent when it can be.

        Raises
        ------
        TrackingError
            If the store refused an earlier letter for good.
        """
        with self._changed:
            self._raise_refusal()
            was_well = self.outbox.fault is None
            self.outbox.put(kind, body)
            fault = self.outbox.fault
            self._changed.notify_all()
        if fault is not None and was_well:
            self.say(f"note: what is logged waits in memory only: {fault.strerror}")

    def measure(self, first_step: int) -> None:
        """Begin to post ``system/...`` metrics and heartbeats."""
        gauges = vitals.Gauges()
        gauges.read()  # the processor's share is since the reading before
        with self._changed:
            self._gauges, self._gauge_step = gauges, first_step
            now = time.monotonic()
            self._next_gauge, self._next_beat = now + GAUGES_EVERY_S, now + HEARTBEAT_EVERY_S
            self._changed.notify_all()

    def rest(self) -> None:
        """Measure once more, then no longer."""
        with self._changed:
            self._gauge()
            self._gauges = None
            self._next_gauge = self._next_beat = NEVER

    def flush(self) -> AwayError | None:
        """Wait until all is sent, or one more try has failed; return why, if it has.

        Raises
        ------
        TrackingError
            If the store refused a letter for good.
        """
        with self._changed:
            if self.outbox.waiting:
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait_for(self._is_settled)
            self._raise_refusal()
            return self._away if self.outbox.waiting else None

    def join(self) -> None:
        """End the thread, after the letter in hand."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def unsent(self, run_id: str, away: AwayError) -> TrackingError:
        """Return what to tell at the end of a run whose store is ``away``."""
        if not self.patient:
            return away
        fault = self.outbox.fault
        if fault is None:
            what, mend = "waits to be sent", f"hilum send {self.outbox.folder.parent}"
        else:
            what, mend = f"could be neither sent nor kept: {fault.strerror}", "make room, resume"
        return TrackingError(
            f"{away.what}; what run {run_id} logged last {what}", where=away.where, mend=mend
        )

    def _raise_refusal(self) -> None:
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused

    def _is_settled(self) -> bool:
        tried = self._away is not None and not self._hurry
        return tried or not self.outbox.waiting or not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while True:
                letters = self._next()
                if letters is None:
                    return
                started = time.thread_time()
                if letters:
                    self.outbox.settle()
                    self._send(letters)
                else:
                    self._beat()
                self.busy_s += time.thread_time() - started
        except BaseException as error:  # noqa: BLE001 - told to the thread that posts
            with self._changed:
                self._refused = TrackingError(f"the sending thread failed: {type(error).__name__}")
                self._refused.__cause__ = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> list[Letter] | None:
        """Wait for something to do: letters to send, nothing (a heartbeat), or ``None``, the end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                if now >= self._next_gauge:
                    self._next_gauge = now + GAUGES_EVERY_S
                    self._gauge()
                if self.outbox.waiting and now >= self._when_to_try():
                    return together(self.outbox.waiting)
                if now >= self._next_beat:
                    self._next_beat = now + HEARTBEAT_EVERY_S
                    return []
                until = min(self._when_to_try(), self._next_gauge, self._next_beat)
                self._changed.wait(None if until == NEVER else max(0.0, until - now))
            return None

    def _when_to_try(self) -> float:
        if not self.outbox.waiting:
            return NEVER
        return 0.0 if self._hurry or self._away is None else self._next_try

    def _send(self, letters: list[Letter]) -> None:
        try:
            if self._away is not None:
                self._look_again()
            self._delivery(letters)
        except AwayError as error:
            self._wait(error)
        except RefusedError as error:
            if len(letters) > 1:
                for letter in letters:  # only one of them may be at fault
                    if self._away is None:
                        self._send([letter])
                return
            with self._changed:
                self.outbox.set_aside(letters[0], error.what)
                self._refused = error
                self._changed.notify_all()
        else:
            with self._changed:
                self.outbox.taken(letters)
                self._hurry = self._hurry and bool(self.outbox.waiting)
                self._changed.notify_all()

    def _look_again(self) -> None:
        """Find out cheaply whether the store is back; if so, say in the run that it lives."""
        if self._away is not None and not answers(self._delivery.uri):
            raise self._away
        if self._gauges is not None:
            self._delivery.do(lambda client: vitals.revive(client, self._delivery.run_id))
        with self._changed:
            self._away, self._pause = None, FIRST_PAUSE_S
            count = len(self.outbox.waiting)
        self.say(f"note: the tracking store is back; {count} letters follow")

    def _wait(self, error: AwayError) -> None:
        with self._changed:
            is_new = self._away is None
            self._away, self._hurry = error, False
            self._next_try = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
            self._changed.notify_all()
        if is_new:
            self.say(f"note: {error.what}; what is logged waits in {self.outbox.folder}")

    def _gauge(self) -> None:
        if self._gauges is None or len(self.outbox.waiting) >= CROWDED:
            return
        at, step = now_ms(), self._gauge_step
        self._gauge_step += 1
        rows = [[name, value, at, step] for name, value in self._gauges.read().items()]
        self.outbox.put("metrics", {"rows": rows})

    def _beat(self) -> None:
        beat = vitals.heartbeat()
        try:
            self._delivery.do(
                lambda client: client.set_tag(self._delivery.run_id, vitals.HEARTBEAT_TAG, beat)
            )
        except AwayError as error:
            self._wait(error)
        except RefusedError:
            self._next_beat = NEVER  # what refuses it will refuse the next letter, and be told
