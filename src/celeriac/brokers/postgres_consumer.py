"""The consumer of the PostgreSQL broker: takes and settles over one connection, and waits for its notification."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

from celeriac import clock
from celeriac.brokers import postgres_verbs as verbs
from celeriac.brokers.contract import (
    Ack,
    Arrival,
    Bury,
    Delivery,
    Join,
    Outgoing,
    PutBack,
    Record,
    Release,
    Replace,
    Settlement,
)
from celeriac.drivers.alarm import Alarm
from celeriac.drivers.postgres import Address, Connection, ServerError, broker_errors
from celeriac.drivers.postgres_joins import delay, opening
from celeriac.drivers.postgres_schema import connected
from celeriac.drivers.postgres_wire import Verb
from celeriac.exceptions import BrokerRefused, LeaseLost

#: How long an idle consumer waits for its notification before it looks by itself (seconds): soon after there was
#: something, because a sender that was on its way may not have seen that we wait; and where no notifications come.
_IDLE: Final = 2.0
_FIRST_LOOKS: Final = (0.02, 0.1, 0.5)
_POLL: Final = 1.0


class PostgresConsumer:
    """See `celeriac.brokers.contract.Consumer`. One connection carries takes, settlements and notifications.

    `_lock` guards the connection. A thread that waits in `take` waits outside the lock, for the socket or
    for a byte in `_alarm`, which `wake` and other threads that saw a notification write.
    """

    def __init__(
        self, address: Address, queues: Sequence[str], owner: str, lease: float, max_deliveries: int
    ) -> None:
        self._address = address
        self._queues = list(dict.fromkeys(queues))
        self._first_owner = owner
        self._generation = 0
        self._owner = owner
        self._lease = lease
        self._max_deliveries = max_deliveries
        self._channel = f"celeriac_{os.urandom(8).hex()}"
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._has_lease = False
        #: Whether the server has us on its list of those who wait, and how often we have looked in vain.
        self._waits = False
        self._looks = 0
        self._turn = 0
        #: The last fence that has arrived; whether a take was asked for whose answer has not.
        self._arrived = 0
        self._is_unanswered = False
        self._alarm = Alarm()
        self._closed = False
        #: Written by `wake` in any thread, read and taken back by the thread that takes.
        self._told = False

    @property
    def owner(self) -> str:
        return self._owner

    @property
    def place(self) -> str:
        return self._address.place

    # -- the connection -----------------------------------------------------------------------------------

    def _connected(self) -> Connection:
        """The connection, which follows its channels. Under the lock."""
        connection = self._connection
        if connection is None or connection.pid != os.getpid():
            self._drop_connection()
            connection = connected(self._address, self._address.timeout)
            try:
                if connection.hears:
                    connection.call(verbs.HEAR, self._channel, [f"queue {name}" for name in self._queues])
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._looks = 0
        return connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _conversation(self) -> Generator[Connection]:
        with self._lock, broker_errors(self._address.place):
            try:
                yield self._connected()
            except ServerError:
                raise
            except BaseException:
                self._drop_connection()
                raise
            finally:
                if self._connection is not None and self._connection.pushes:
                    self._alarm.ring()

    def _call(self, verb: Verb, *arguments: Any) -> list[tuple[Any, ...]]:
        with self._conversation() as connection:
            return connection.call(verb, *arguments)

    # -- taking -------------------------------------------------------------------------------------------

    def take(self, limit: int, timeout: float, order: Sequence[str] | None = None) -> list[Delivery]:
        deadline = clock.monotonic() + timeout
        while True:
            deliveries, look_again = self._look(limit, deadline - clock.monotonic(), order)
            remaining = deadline - clock.monotonic()
            if deliveries or remaining <= 0 or self._told:
                self._told = False
                return deliveries
            self._wait(min(remaining, look_again))

    def _look(self, limit: int, patience: float, order: Sequence[str] | None) -> tuple[list[Delivery], float]:
        """One look into the queues, in this order or in turn. Else: seconds after which to look again unasked."""
        if self._closed:
            raise BrokerRefused(f"the consumer {self._owner!r} is closed")
        with self._conversation() as connection:
            connection.pushes.clear()
            if self._is_unanswered:
                # What it may have brought into our holding is nobody's but ours, and we do not know of it.
                connection.call(verbs.GIVE_BACK, self._owner, self._arrived)
            if order is None:
                self._turn += 1
                first = self._turn % len(self._queues)
                order = self._queues[first:] + self._queues[:first]
            waits = 2 * _IDLE if connection.hears and patience > 0 else None
            self._is_unanswered = True
            [(is_lost, next_due, queue, fences, datas, crashes, verdict)] = connection.call(
                verbs.TAKE, self._owner, list(order), limit, self._lease, self._max_deliveries, not self._has_lease,
                self._channel, waits, self._waits,
            )  # fmt: skip
            self._is_unanswered = False
            if is_lost:
                self._start_over()
            self._has_lease = True
            if fences is None:
                self._waits = self._waits or waits is not None
                self._looks += 1
                return [], self._next_look(connection.hears, next_due)
            self._waits, self._looks, self._arrived = False, 0, fences[-1]
        told = None if verdict is None else verbs.text(verdict)
        owner = self._owner
        return [
            Delivery(queue, data, owner, fence, crashes, told)
            for fence, data in zip(fences, datas, strict=True)
        ], 0.0

    def _next_look(self, hears: bool, next_due: float | None) -> float:
        pause = _IDLE if hears else _POLL
        if self._looks <= len(_FIRST_LOOKS):
            pause = _FIRST_LOOKS[self._looks - 1]
        pause = min(pause, self._lease / 8)
        return pause if next_due is None else min(pause, max(next_due, 0.0) + 0.001)

    def _start_over(self) -> None:
        """The lease has ended: go on under another owner."""
        lost = self._owner
        self._generation += 1
        self._owner = f"{self._first_owner}~{self._generation}"
        self._has_lease = self._waits = False
        raise LeaseLost(f"the lease of {lost} has ended; what it held was given to others")

    def _wait(self, timeout: float) -> None:
        """Wait until a notification comes or `wake` is called, at most `timeout` seconds."""
        self._alarm.silence()
        with self._conversation() as connection:
            has_come = connection.gather()
        if has_come or self._told:
            return
        connection.wait_readable(timeout, self._alarm)

    # -- settling -----------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        groups: dict[str, dict[int, Settlement]] = {}
        twice: list[Delivery] = []
        for one in settlements:
            group = groups.setdefault(one.delivery.owner, {})
            if one.delivery.fence in group:
                twice.append(one.delivery)
            else:
                group[one.delivery.fence] = one
        lost: list[Delivery] = []
        done = 0
        for owner, group in groups.items():
            try:
                [(ours,)] = self._call(verbs.SETTLE, owner, *_columns(group))
            except BrokerRefused as exc:
                raise BrokerRefused(str(exc), done) from exc
            done += len(group)
            if len(ours) < len(group):
                lost += [group[fence].delivery for fence in group.keys() - set(ours)]
        return lost + twice

    def confirm(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return self._refused(verbs.CONFIRM, deliveries)

    def note(self, delivery: Delivery, records: Sequence[Record]) -> bool:
        columns = ([r.key for r in records], [r.data for r in records], [r.ttl for r in records])
        [(is_ours,)] = self._call(verbs.NOTE, delivery.owner, delivery.fence, *columns)
        return bool(is_ours)

    def commit(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return self._refused(verbs.COMMIT, deliveries)

    def _refused(self, verb: Verb, deliveries: Sequence[Delivery]) -> list[Delivery]:
        fences: dict[str, list[int]] = {}
        for one in deliveries:
            fences.setdefault(one.owner, []).append(one.fence)
        ours: set[tuple[str, int]] = set()
        for owner, asked in fences.items():
            [(held,)] = self._call(verb, owner, asked)
            ours.update((owner, fence) for fence in held)
        return [one for one in deliveries if (one.owner, one.fence) not in ours]

    def bans(self) -> list[bytes]:
        return [data for (data,) in self._call(verbs.BANS)]

    def wake(self) -> None:
        if not self._closed:
            self._told = True
            self._alarm.ring()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self._has_lease:
                    self._call(verbs.SURRENDER, self._owner, [], [], [], [], [], self._max_deliveries)
            finally:
                self._drop_connection()
                self._alarm.close()


def _columns(group: Mapping[int, Settlement]) -> list[Any]:
    """Settlements of one owner, by fence, as the server's function takes them."""
    done: list[int] = []
    back: list[int] = []
    off: list[tuple[int, PutBack]] = []
    bad: list[tuple[int, Bury]] = []
    records: list[tuple[int, Record]] = []
    sends: list[tuple[int, Outgoing]] = []
    arrivals: list[tuple[int, Arrival]] = []
    ends: list[tuple[int, bytes]] = []
    opens: list[tuple[int, Join]] = []
    for fence, one in group.items():
        match one.action:
            case Ack():
                done.append(fence)
            case Release():
                back.append(fence)
            case PutBack():
                off.append((fence, one.action))
            case Bury():
                bad.append((fence, one.action))
            case Replace():
                done.append(fence)
        records += ((fence, record) for record in one.records)
        sends += ((fence, sent) for sent in one.sends)
        if isinstance(one.action, Replace):
            sends.append((fence, one.action.successor))
        arrivals += ((fence, arrival) for arrival in one.arrivals)
        ends += ((fence, key) for key in one.joins)
        opens += ((fence, join) for join in one.opens)
    return [
        done, back,
        [of for of, _ in off], [put.data for _, put in off], [delay(put.due_at) for _, put in off],
        [of for of, _ in bad], [verbs.raw(b.reason) for _, b in bad], [verbs.raw(b.detail) for _, b in bad],
        [of for of, _ in records], [r.key for _, r in records], [r.data for _, r in records],
        [r.ttl for _, r in records],
        [of for of, _ in sends], *verbs.words([sent for _, sent in sends]),
        [of for of, _ in arrivals], [a.join for _, a in arrivals], [a.place for _, a in arrivals],
        [a.data for _, a in arrivals],
        [of for of, _ in ends], [key for _, key in ends],
        [of for of, _ in opens], *opening([join for _, join in opens]),
    ]  # fmt: skip
