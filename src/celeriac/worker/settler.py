"""Settling in batches: ends of runs wait here for a few milliseconds, then go to the broker in one round trip.

The broker keeps the order of guarantee P2 for each settlement: result, follow-ups, acknowledgement. Where results
live in another place than messages, this module stores them first, for deliveries that are still ours.
While the broker or the store is away it waits, and so does everybody who flushes: a worker does not go on
taking what it cannot end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from celeriac import clock, message
from celeriac.board import ChildBoard, Lack
from celeriac.brokers.contract import Consumer, Delivery, Settlement
from celeriac.events import BUS, BrokerBack, BrokerLost, TaskLost
from celeriac.exceptions import BackendError, BrokerRefused, OperationalError
from celeriac.results.contract import ResultStore

T = TypeVar("T")

#: How long an end may wait for others before it is sent (seconds), and how many may wait together.
PATIENCE: Final = 0.02
FULL: Final = 256
_LONGEST_PAUSE: Final = 2.0
#: What stays away is told of so often (seconds), not at every try.
_TELL_EVERY: Final = 30.0


class _Tries:
    """Tries of one thing, again and again."""

    def __init__(self) -> None:
        self.failed = 0
        self._tell_at = 0.0

    def pause(self, place: str, error: Exception) -> None:
        """One has failed: tell of it, if it is time to, and wait before the next one."""
        seconds = clock.backoff(self.failed, 0.05, _LONGEST_PAUSE, jitter=True)
        if clock.monotonic() >= self._tell_at:
            self._tell_at = clock.monotonic() + _TELL_EVERY
            BUS.emit(BrokerLost(place, str(error), seconds))
        self.failed += 1
        clock.sleep(seconds)


class Settler:
    """Collects settlements of one consumer. Any thread may add and flush."""

    def __init__(
        self,
        consumer: Consumer,
        place: str,
        store: ResultStore | None,
        board: ChildBoard,
    ) -> None:
        """`store`: where results go when the broker does not keep them."""
        self._consumer = consumer
        self._place = place
        self._store = store
        self._board = board
        #: Guards the three fields below it; held for moments.
        self._lock = threading.Lock()
        self._waiting: list[Settlement] = []
        self._then: list[tuple[Delivery, Callable[[], None]]] = []
        self._since = 0.0
        #: Called before a batch goes out: lets the other runs that end in this turn of a loop add theirs.
        self.gather: Callable[[], None] | None = None
        #: Held while a batch is on its way, so that batches keep their order.
        self._sending = threading.Lock()

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._waiting)

    def add(self, settlement: Settlement, then: Callable[[], None] | None = None) -> None:
        """Take note of how a delivery ended. It is safe only after the next `flush`, and then `then` is called, unless
        the delivery was not ours any more."""
        with self._lock:
            if not self._waiting:
                self._since = clock.monotonic()
            self._waiting.append(settlement)
            if then is not None:
                self._then.append((settlement.delivery, then))

    def is_due(self) -> bool:
        """Whether what waits should be sent now."""
        waiting = len(self._waiting)
        return waiting >= FULL or (waiting > 0 and clock.monotonic() - self._since >= PATIENCE)

    def flush(self) -> None:
        """Send what waits. Returns when the broker has it, however long that takes."""
        if not self._waiting:
            return
        refused: list[Delivery] = []
        with self._sending:
            if self._waiting and self.gather is not None:
                self.gather()
            with self._lock:
                batch, self._waiting = self._waiting, []
                told, self._then = self._then, []
            if batch:
                refused = self._send(batch)
                self._board.count(len(batch), 0)
        for delivery, then in told:
            if delivery not in refused:
                then()

    def finish(self) -> None:
        """`flush`, and wait for what another thread is sending."""
        self.flush()
        with self._sending:
            pass

    def _send(self, batch: list[Settlement]) -> list[Delivery]:
        """Until it is done. Which were refused; after a try whose fate is unknown that says nothing: it may have been
        done."""
        tries, lost_at, place = _Tries(), 0.0, self._place
        while True:
            try:
                refused = self._send_once(batch)
                break
            except (OperationalError, BackendError) as exc:
                if isinstance(exc, BrokerRefused):
                    batch = batch[exc.settled :]
                lost_at = lost_at or clock.monotonic()
                place = self._note_lack(lost_at, is_broker=isinstance(exc, OperationalError))
                tries.pause(place, exc)
        if tries.failed:
            self._board.lack(Lack.SETTLING, 0.0)
            self._board.lack(Lack.STORING, 0.0)
            BUS.emit(BrokerBack(place, clock.monotonic() - lost_at))
            return []
        for delivery in refused:
            task_id, task = message.peek(delivery.data)
            BUS.emit(TaskLost(task_id or "?", task))
        return refused

    def _note_lack(self, since: float, *, is_broker: bool) -> str:
        """Write on the board what keeps this child from going on; where that is."""
        self._board.come_round(clock.monotonic())
        self._board.lack(Lack.SETTLING, since if is_broker else 0.0)
        self._board.lack(Lack.STORING, 0.0 if is_broker else since)
        return self._place if is_broker or self._store is None else self._store.place

    def patiently(self, ask: Callable[[], T]) -> T:
        """What `ask` answers, as soon as the result store can."""
        tries = _Tries()
        while True:
            try:
                return ask()
            except (OperationalError, BackendError) as exc:
                tries.pause(self._store.place if self._store else self._place, exc)

    def _send_once(self, batch: list[Settlement]) -> list[Delivery]:
        store = self._store
        if store is None or not any(map(_needs_store, batch)):
            return self._consumer.settle(batch)
        lost = self._consumer.confirm([one.delivery for one in batch])
        ours = [one for one in batch if one.delivery not in lost]
        for join in (join for one in ours for join in one.opens):
            store.open_join(join)
        store.put([record for one in ours for record in one.records])
        lost += self._consumer.settle([_without_store(one, store) for one in ours])
        store.end_joins([key for one in ours if one.delivery not in lost for key in one.joins])
        return lost


def _needs_store(settlement: Settlement) -> bool:
    return bool(settlement.records or settlement.arrivals or settlement.joins or settlement.opens)


def _without_store(settlement: Settlement, store: ResultStore) -> Settlement:
    """What is left for a broker that keeps no results; messages that its arrivals bring are follow-ups."""
    if not _needs_store(settlement):
        return settlement
    sends = [*settlement.sends, *store.arrive(settlement.arrivals)]
    return Settlement(settlement.delivery, settlement.action, sends)
