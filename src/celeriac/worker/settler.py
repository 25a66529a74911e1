"""Settling in batches: ends of runs wait here for a few milliseconds, then go to the broker in one round trip.

The broker keeps the order of guarantee P2 for each settlement: result, follow-ups, acknowledgement. Where results
live in another place than messages, this module stores them first, for deliveries that are still ours.
While the broker or the store is away it waits, and so does everybody who flushes: a worker does not go on
taking what it cannot end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from celeriac import clock, message
from celeriac.brokers.contract import Consumer, Delivery, Settlement
from celeriac.events import BUS, BrokerBack, BrokerLost, TaskLost
from celeriac.exceptions import BackendError, BrokerRefused, OperationalError
from celeriac.results.contract import ResultStore

#: How long an end may wait for others before it is sent (seconds), and how many may wait together.
PATIENCE: Final = 0.02
FULL: Final = 256
_LONGEST_PAUSE: Final = 2.0


class Settler:
    """Collects settlements of one consumer. Any thread may add and flush."""

    def __init__(
        self,
        consumer: Consumer,
        place: str,
        store: ResultStore | None,
        sent: Callable[[int], None],
    ) -> None:
        """`store`: where results go when the broker does not keep them. `sent` is told how many ends went out."""
        self._consumer = consumer
        self._place = place
        self._store = store
        self._sent = sent
        #: Guards the two fields below it; held for moments.
        self._lock = threading.Lock()
        self._waiting: list[Settlement] = []
        self._since = 0.0
        #: Held while a batch is on its way, so that batches keep their order.
        self._sending = threading.Lock()

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._waiting)

    def add(self, settlement: Settlement) -> None:
        """Take note of how a delivery ended. It is safe only after the next `flush`."""
        with self._lock:
            if not self._waiting:
                self._since = clock.monotonic()
            self._waiting.append(settlement)

    def is_due(self) -> bool:
        """Whether what waits should be sent now."""
        waiting = len(self._waiting)
        return waiting >= FULL or (waiting > 0 and clock.monotonic() - self._since >= PATIENCE)

    def flush(self) -> None:
        """Send what waits. Returns when the broker has it, however long that takes."""
        if not self._waiting:
            return
        with self._sending:
            with self._lock:
                batch, self._waiting = self._waiting, []
            if batch:
                self._send(batch)
                self._sent(len(batch))

    def _send(self, batch: list[Settlement]) -> None:
        """Until it is done. After a try whose fate is unknown, a refusal says nothing: it may have been done."""
        attempt, lost_at, place = 0, 0.0, self._place
        while True:
            try:
                refused = self._send_once(batch)
                break
            except (OperationalError, BackendError) as exc:
                if isinstance(exc, BrokerRefused):
                    batch = batch[exc.settled :]
                lost_at = lost_at or clock.monotonic()
                pause = clock.backoff(attempt, 0.05, _LONGEST_PAUSE, jitter=True)
                place = (
                    self._place
                    if isinstance(exc, OperationalError) or self._store is None
                    else self._store.place
                )
                if attempt == 0 or pause > 1.0:
                    BUS.emit(BrokerLost(place, str(exc), pause))
                attempt += 1
                clock.sleep(pause)
        if attempt:
            BUS.emit(BrokerBack(place, clock.monotonic() - lost_at))
            return
        for delivery in refused:
            task_id, task = message.peek(delivery.data)
            BUS.emit(TaskLost(task_id or "?", task))

    def _send_once(self, batch: list[Settlement]) -> list[Delivery]:
        if self._store is None or not any(one.records for one in batch):
            return self._consumer.settle(batch)
        lost = self._consumer.confirm([one.delivery for one in batch])
        ours = [one for one in batch if one.delivery not in lost]
        self._store.put([record for one in ours for record in one.records])
        bare = [msgspec.structs.replace(one, records=()) if one.records else one for one in ours]
        return lost + self._consumer.settle(bare)
