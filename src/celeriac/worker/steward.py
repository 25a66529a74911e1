"""The steward: a child's second thread, for what cannot wait until the main thread comes round.

It reads the supervisor's words, and while there is something to look after (ends of runs that wait to be sent, messages
that wait behind a long run, time limits of threads) it looks every 50 ms. Otherwise it sleeps.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from typing import Final

from celeriac import clock, machine
from celeriac.drivers.alarm import Alarm
from celeriac.events import BUS, ChildDraining
from celeriac.wire import Begin, Channel, Drain, GiveBack, Question, Reply, Revoke
from celeriac.worker import inspection
from celeriac.worker.batch import TARGET
from celeriac.worker.consumer import TaskConsumer
from celeriac.worker.executor import Workbench

_STEP: Final = 0.05
#: How often the board is told that this process lives (seconds).
_BEAT: Final = 1.0


class Steward(threading.Thread):
    """See the module. `arm` may be called from any thread; everything else is this thread's own."""

    def __init__(
        self, channel: Channel, consumer: TaskConsumer, bench: Workbench, on_begin: Callable[[], None]
    ) -> None:
        super().__init__(name="celeriac-steward", daemon=True)
        self._channel = channel
        self._consumer = consumer
        self._bench = bench
        self._board = bench.board
        self._settler = bench.settler
        self._limits = bench.thread_limits
        self._on_begin = on_begin
        self._armed = False
        self._alarm = Alarm()

    def arm(self) -> None:
        """There is something to look after."""
        if not self._armed:
            self._armed = True
            self._alarm.ring()

    def close(self) -> None:
        """Close its descriptors. It must have ended, or not have begun."""
        self._alarm.close()

    def run(self) -> None:
        self._channel.set_blocking(False)
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        poller.register(self._alarm, select.POLLIN)
        self._board.memory(machine.resident_memory() // 1024)
        while True:
            step = _STEP if self._armed else _BEAT
            for fd, _ in poller.poll(step * 1000):
                if fd == self._alarm.fileno():
                    self._alarm.silence()
                else:
                    self._obey()
            if self._channel.at_end:
                return
            self._channel.flush()
            now = clock.monotonic()
            self._board.beat(now)
            self._board.memory(machine.resident_memory() // 1024)
            if self._armed:
                self._look_after(now)

    def _obey(self) -> None:
        for word in self._channel.words():
            match word:
                case Drain():
                    self._drain()
                case Begin():
                    self._on_begin()
                case Revoke():
                    self._revoke(word)
                case GiveBack():
                    self._consumer.fall_behind()
                case Question():
                    told = inspection.of_child(word, self._bench, self._consumer.waiting)
                    self._channel.send(Reply(word.number, told))
                case _:
                    pass
        if self._channel.at_end:
            # The supervisor is gone: nobody renews our lease any more.
            self._drain()

    def _drain(self) -> None:
        # Told before it is woken: a child that is idle ends as soon as it is.
        self._consumer.stopping.set()
        BUS.emit(ChildDraining())
        self._consumer.stop()
        self._on_begin()
        self._consumer.give_back()

    def _revoke(self, word: Revoke) -> None:
        # What waits comes last: settling it may take its time.
        self._bench.revoked.add(word.keys, word.keep)
        if word.terminate:
            if self._limits is not None:
                self._limits.terminate(word.keys, word.grace)
            elif self._bench.signal_limits is not None and word.grace:
                self._bench.signal_limits.terminate(word.keys)
        self._consumer.end_revoked()

    def _look_after(self, now: float) -> None:
        if self._limits:
            self._limits.check(now)
        busy_since = self._consumer.busy_since
        if busy_since and now - busy_since > TARGET and self._consumer.waiting:
            self._consumer.give_back()
        if self._settler.is_due():
            self._settler.flush()
        if not (self._settler.pending or self._consumer.waiting or self._limits):
            self._armed = False
