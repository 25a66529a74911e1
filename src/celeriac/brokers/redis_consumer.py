"""The consumer of the Redis broker: takes and settles over one connection, and waits for its wake-up."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Sequence
from typing import Any, Final

from celeriac import clock
from celeriac.brokers.contract import (
    HIGHEST_PRIORITY,
    Ack,
    Bury,
    Delivery,
    PutBack,
    Record,
    Release,
    Replace,
    Settlement,
)
from celeriac.brokers.redis_keys import SCRIPTS, Keyspace, delay_text
from celeriac.drivers.redis import Address, Connection, Reply, ServerError, broker_errors, explain
from celeriac.exceptions import BrokerRefused, LeaseLost

#: How long an idle consumer waits for its wake-up before it looks by itself (seconds).
_IDLE: Final = 2.0


class RedisConsumer:
    """See `celeriac.brokers.contract.Consumer`. One connection carries takes, settlements and wake-ups.

    `_lock` guards the connection. A thread that waits in `take` waits outside the lock, for the socket or
    for a byte in `_alarm`, which `wake` and other threads that saw a push write.
    """

    def __init__(self, address: Address, queues: Sequence[str], owner: str, lease: float) -> None:
        self._address = address
        self._keys = Keyspace(address)
        self._queues = list(queues)
        self._queue_of = {self._keys.base(queue).encode(): queue for queue in queues}
        self._first_owner = owner
        self._generation = 0
        self._owner = owner
        self._lease = lease
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._opened = False
        self._rung: set[str] = set()
        self._turn = 0
        self._takes = 0
        #: By queue: the last fence that has arrived, and which takes have been asked for and not been answered.
        self._arrived: dict[str, int] = {}
        self._unanswered: set[str] = set()
        self._waits_in: set[str] = set()
        self._alarm_in, self._alarm_out = os.pipe()
        os.set_blocking(self._alarm_in, False)
        os.set_blocking(self._alarm_out, False)
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
        """The connection, with the lease open and the wake-up channel subscribed. Under the lock."""
        connection = self._connection
        if connection is None:
            connection = Connection(self._address, self._address.timeout)
            try:
                connection.set_timeout(self._address.timeout)
                connection.subscribe(f"celeriac.wake:{self._owner}")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            # What was published while we were away is lost: look into every queue.
            self._rung.update(self._queues)
        if not self._opened:
            self._keys.list_queues(connection, self._queues)
            for queue in self._queues:
                arguments = (self._owner, int(self._lease * 1000))
                connection.script(SCRIPTS["open"], self._keys.base(queue), *arguments)
            self._opened = True
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
                self._note_pushes()

    def _note_pushes(self) -> None:
        """Remember which queues rang. Under the lock."""
        connection = self._connection
        if connection is None:
            return
        connection.parse_pushes()
        if not connection.pushes:
            return
        while connection.pushes:
            push = connection.pushes.popleft()
            if push[0] == b"message" and (queue := self._queue_of.get(push[2])) is not None:
                self._rung.add(queue)
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._alarm_out, b"!")

    # -- taking -------------------------------------------------------------------------------------------

    def take(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = clock.monotonic() + timeout
        while True:
            deliveries, look_again = self._look(limit)
            remaining = deadline - clock.monotonic()
            if deliveries or remaining <= 0 or self._told:
                self._told = False
                return deliveries
            self._wait(min(remaining, look_again))

    def _look(self, limit: int) -> tuple[list[Delivery], float]:
        """One look into the queues, in turn. Else: seconds after which to look again unasked."""
        look_again = max(_IDLE, 1.25 * len(self._queues))
        with self._conversation() as connection:
            self._rung.clear()
            for queue in self._next_queues():
                reply = self._ask(connection, queue, limit)
                if reply == b"LOST":
                    self._start_over()
                if len(reply) > 1:
                    self._leave_benches(connection, queue)
                    self._unanswered.discard(queue)
                    return self._deliveries(queue, reply), 0.0
                self._unanswered.discard(queue)
                self._waits_in.add(queue)
                if reply:
                    look_again = min(look_again, reply[0] / 1000)
        return [], look_again

    def _next_queues(self) -> list[str]:
        """All queues, each first in its turn. What an unanswered take may keep from others comes before any turn."""
        self._turn += 1
        first = self._turn % len(self._queues)
        in_turn = self._queues[first:] + self._queues[:first]
        return sorted(in_turn, key=self._unanswered.__contains__, reverse=True)

    def _ask(self, connection: Connection, queue: str, limit: int) -> Reply:
        """The take script. What an unanswered take may have brought into our holding goes back with the next one.

        It is unanswered until its messages are in our caller's hands: a look may break off behind the reply too.
        """
        self._takes += 1
        arguments: list[Any] = [self._owner, limit, self._takes]
        if queue in self._unanswered:
            arguments.append(self._arrived.get(queue, 0))
        self._unanswered.add(queue)
        return connection.script(SCRIPTS["take"], self._keys.base(queue), *arguments)

    def _leave_benches(self, connection: Connection, taken_from: str) -> None:
        """We have work: no other queue should wake us. The take script did so for its own queue."""
        others = self._waits_in - {taken_from}
        self._waits_in.clear()
        if others:
            connection.pipeline([("SREM", self._keys.base(queue) + ":i", self._owner) for queue in others])

    def _deliveries(self, queue: str, reply: Reply) -> list[Delivery]:
        owner, fence = self._owner, reply[0]
        if fence < 0:
            self._arrived[queue] = -fence
            verdict = reply[3].decode() or None
            return [Delivery(queue, reply[1], owner, -fence, reply[2], verdict)]
        self._arrived[queue] = fence + len(reply) - 2
        return [Delivery(queue, data, owner, fence + i) for i, data in enumerate(reply[1:])]

    def _start_over(self) -> None:
        """The lease has ended: go on under another owner."""
        lost = self._owner
        self._generation += 1
        self._owner = f"{self._first_owner}~{self._generation}"
        self._opened = False
        self._waits_in.clear()
        self._drop_connection()
        raise LeaseLost(f"the lease of {lost} has ended; what it held was given to others")

    def _wait(self, timeout: float) -> None:
        """Wait until a queue rings or `wake` is called, at most `timeout` seconds."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._alarm_in, 4096)
        with self._conversation() as connection:
            connection.gather()
        if self._rung or self._told:
            return
        connection.wait_readable(timeout, self._alarm_in)
        with self._conversation() as connection:
            connection.gather()

    # -- settling -----------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        groups: dict[tuple[str, str], list[Settlement]] = {}
        for settlement in settlements:
            delivery = settlement.delivery
            groups.setdefault((delivery.queue, delivery.owner), []).append(settlement)
        lost: list[Delivery] = []
        done = 0
        for (queue, owner), group in groups.items():
            # Released ones go to the head of the queue one by one: the last taken first keeps the order.
            releases = [one for one in group if isinstance(one.action, Release)]
            if releases:
                group = [one for one in group if not isinstance(one.action, Release)]
                group += sorted(releases, key=lambda one: one.delivery.fence, reverse=True)
            lost += self._settle_group(queue, owner, group, done)
            done += len(group)
        return lost

    def _settle_group(self, queue: str, owner: str, group: list[Settlement], done: int) -> list[Delivery]:
        arguments: list[Any] = [owner]
        for settlement in group:
            self._add_settlement(arguments, settlement)
        with self._conversation() as connection:
            self._keys.list_queues(connection, (sent.queue for one in group for sent in one.sends))
            reply = connection.script(SCRIPTS["settle"], self._keys.base(queue), *arguments)
        settled, error, *fences = reply
        if error:
            exc = ServerError(error.decode(errors="replace"))
            raise BrokerRefused(f"{self._address.place}: {explain(exc)}", done + settled)
        if not fences:
            return []
        by_fence = {one.delivery.fence: one.delivery for one in group}
        return [by_fence[int(fence)] for fence in fences]

    def _add_settlement(self, arguments: list[Any], settlement: Settlement) -> None:
        delivery, action = settlement.delivery, settlement.action
        plain = not (settlement.records or settlement.sends or settlement.arrivals or settlement.joins)
        if plain and type(action) is Ack and not delivery.crashes and delivery.verdict is None:
            arguments += ("A", delivery.fence)
            return
        parts = (settlement.records, settlement.sends, settlement.arrivals, settlement.joins)
        arguments += ("F", delivery.fence, *map(len, parts))
        for record in settlement.records:
            arguments += self._stored_record(record)
        for outgoing in settlement.sends:
            arguments += self._keys.stored(outgoing)
        for arrival in settlement.arrivals:
            arguments += (self._keys.joins + arrival.join, arrival.place, arrival.data)
        arguments += (self._keys.joins + key for key in settlement.joins)
        match action:
            case Ack():
                arguments.append("A")
            case Release():
                arguments.append("R")
            case Replace(successor):
                arguments.append("P")
                arguments += self._keys.stored(successor)
            case PutBack(data, due_at):
                arguments += ("B", delay_text(due_at), data)
            case Bury(reason, detail):
                arguments += ("X", reason, detail)

    def _stored_record(self, record: Record) -> tuple[bytes, bytes, int | str]:
        """What scripts need to store a record."""
        ttl = "" if record.ttl is None else int(record.ttl * 1000)
        return (self._keys.results + record.key, record.data, ttl)

    def confirm(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return self._refused("confirm", deliveries)

    def note(self, delivery: Delivery, records: Sequence[Record]) -> bool:
        arguments: list[Any] = [delivery.owner, delivery.fence]
        for record in records:
            arguments += self._stored_record(record)
        with self._conversation() as connection:
            return bool(connection.script(SCRIPTS["note"], self._keys.base(delivery.queue), *arguments))

    def commit(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return self._refused("commit", deliveries)

    def _refused(self, script: str, deliveries: Sequence[Delivery]) -> list[Delivery]:
        groups: dict[tuple[str, str], list[Delivery]] = {}
        for delivery in deliveries:
            groups.setdefault((delivery.queue, delivery.owner), []).append(delivery)
        lost: list[Delivery] = []
        for (queue, owner), group in groups.items():
            arguments = (owner, *(delivery.fence for delivery in group))
            with self._conversation() as connection:
                reply = connection.script(SCRIPTS[script], self._keys.base(queue), *arguments)
            refused = {int(fence) for fence in reply}
            lost += [delivery for delivery in group if delivery.fence in refused]
        return lost

    def bans(self) -> list[bytes]:
        with self._conversation() as connection:
            return list(connection.script(SCRIPTS["bans"], self._keys.bans))

    def wake(self) -> None:
        if not self._closed:
            self._told = True
            self._ring()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self._opened:
                    with self._conversation() as connection:
                        for queue in self._queues:
                            base = self._keys.base(queue)
                            connection.script(SCRIPTS["surrender"], base, self._owner, HIGHEST_PRIORITY, 0)
            finally:
                self._drop_connection()
                os.close(self._alarm_in)
                os.close(self._alarm_out)
