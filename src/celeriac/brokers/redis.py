"""The broker on Redis 6.2 and later, and Valkey. Every key and every script is described in `redis.lua`.

A waiting message is one list entry: its bytes. Whoever waits for work stands in a set beside the queue; a send
takes one name out of it and publishes to that one, so that a thousand idle consumers cost a send nothing. The
server's own clock decides about leases and due times.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import msgspec

from celeriac import clock, message
from celeriac.brokers.contract import (
    HIGHEST_PRIORITY,
    Ack,
    Bury,
    Casualty,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueStats,
    Release,
    Replace,
    Settlement,
)
from celeriac.drivers.redis import (
    Address,
    Connection,
    Pool,
    Reply,
    Script,
    ServerError,
    broker_errors,
    explain,
    read_scripts,
)
from celeriac.exceptions import BrokerRefused, BrokerUnavailable, LeaseLost
from celeriac.urls import Url

_SCRIPTS: Final[Mapping[str, Script]] = read_scripts(f"{os.path.dirname(__file__)}/redis.lua")
#: Messages in one call of the bulk script: long enough to be fast, short enough not to hold up the server.
_BULK: Final = 1000
#: How long an idle consumer waits for its wake-up before it looks by itself (seconds).
_IDLE: Final = 2.0
#: Seconds between two tries of a send; the first retry comes at once.
_RETRY_PAUSE: Final = 0.05


class RedisBroker:
    """See `celeriac.brokers.contract.Broker`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        self._pool = Pool(self._address)
        self._known: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        return self._address.place

    def base(self, queue: str) -> str:
        """The common beginning of a queue's keys."""
        return f"{self._address.prefix}{{{queue}}}"

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        deadline = clock.monotonic() + timeout
        again = False
        while True:
            try:
                with broker_errors(self.place):
                    self._send_once(batch, deadline, again)
                return
            except BrokerUnavailable as exc:
                if clock.monotonic() + _RETRY_PAUSE >= deadline:
                    raise BrokerUnavailable(f"not stored within {timeout:g} s: {exc}") from exc
                if again:
                    clock.sleep(_RETRY_PAUSE)
                again = True

    def _send_once(self, batch: Sequence[Outgoing], deadline: float, again: bool) -> None:
        connection = self._pool.acquire(deadline)
        try:
            connection.set_timeout(deadline - clock.monotonic())
            for queue in {outgoing.queue for outgoing in batch} - self._known:
                connection.call("SADD", self._address.prefix + "queues", queue)
                self._known |= {queue}
            if len(batch) == 1:
                one = batch[0]
                due = "" if one.due_at is None else int(one.due_at * 1000)
                script = _SCRIPTS["send_again" if again else "send"]
                connection.script(script, self.base(one.queue), one.priority, due, one.data)
            else:
                self._send_many(connection, batch, again)
        except ServerError:
            self._pool.release(connection)
            raise
        except BaseException:
            self._pool.discard(connection)
            raise
        self._pool.release(connection)

    def _send_many(self, connection: Connection, batch: Sequence[Outgoing], again: bool) -> None:
        """Runs of ready messages of one queue and priority go in bulk, the rest one triple each."""
        plain: dict[tuple[str, int], list[bytes]] = {}
        other: dict[str, list[Any]] = {}
        for one in batch:
            if one.due_at is None and not again:
                plain.setdefault((one.queue, one.priority), []).append(one.data)
            else:
                due = "" if one.due_at is None else int(one.due_at * 1000)
                other.setdefault(one.queue, []).extend((one.priority, due, one.data))
        for (queue, priority), messages in plain.items():
            for start in range(0, len(messages), _BULK):
                part = messages[start : start + _BULK]
                connection.script(_SCRIPTS["send_bulk"], self.base(queue), priority, *part)
        for queue, triples in other.items():
            script = _SCRIPTS["send_again" if again else "send"]
            for start in range(0, len(triples), 3 * _BULK):
                connection.script(script, self.base(queue), *triples[start : start + 3 * _BULK])

    # -- consuming ----------------------------------------------------------------------------------------

    def consumer(
        self, queues: Sequence[str], owner: str, *, lease: float, max_deliveries: int
    ) -> RedisConsumer:
        return RedisConsumer(self, self._address, queues, owner, lease)

    def renew(
        self, queues: Sequence[str], owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        lost: set[str] = set()
        with broker_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            for queue in queues:
                arguments = (int(lease * 1000), max_deliveries, *owners)
                reply = connection.script(_SCRIPTS["renew"], self.base(queue), *arguments)
                lost.update(owner.decode() for owner in reply)
        return [owner for owner in owners if owner in lost]

    def surrender(
        self,
        queues: Sequence[str],
        owner: str,
        casualties: Mapping[bytes, Casualty],
        verdicts: Mapping[bytes, str],
        max_deliveries: int,
    ) -> int:
        arguments: list[Any] = [owner, max_deliveries, len(casualties)]
        for key, casualty in casualties.items():
            arguments += (key, msgspec.json.encode(casualty))
        for key, verdict in verdicts.items():
            arguments += (key, verdict)
        return sum(self._run("surrender", queue, *arguments) for queue in queues)

    # -- looking and tending ------------------------------------------------------------------------------

    def _run(self, script: str, queue: str, *arguments: Any) -> Reply:
        with broker_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            return connection.script(_SCRIPTS[script], self.base(queue), *arguments)

    def _call(self, *command: Any) -> Reply:
        with broker_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            return connection.call(*command)

    def queues(self) -> list[str]:
        return sorted(name.decode() for name in self._call("SMEMBERS", self._address.prefix + "queues"))

    def stats(self, queue: str) -> QueueStats:
        ready, delayed, running, dead, paused, *heads = self._run("stats", queue)
        ages = [at for head in heads if (at := message.created_at(head[message.KEY])) is not None]
        return QueueStats(
            queue, ready, delayed, running, dead, oldest_at=min(ages, default=None), paused=bool(paused)
        )

    def purge(self, queue: str) -> int:
        return int(self._run("purge", queue))

    def pause(self, queue: str) -> None:
        self._call("SET", self.base(queue) + ":p", 1)

    def resume(self, queue: str) -> None:
        self._run("resume", queue)

    def dead(self, queue: str, *, after: bytes | None = None, limit: int = 100) -> list[DeadLetter]:
        page = self._run("dead", queue, after or b"", limit)
        return [_dead_letter(queue, page[i], page[i + 1]) for i in range(0, len(page), 2) if page[i + 1]]

    def find_dead(self, queue: str, key: bytes) -> DeadLetter | None:
        value = self._call("HGET", self.base(queue) + ":y", key)
        return _dead_letter(queue, key, value) if value is not None else None

    def replay(self, queue: str, keys: Sequence[bytes]) -> int:
        parts = (keys[start : start + _BULK] for start in range(0, len(keys), _BULK))
        return sum(self._run("replay", queue, *part) for part in parts)

    def drop(self, queue: str, keys: Sequence[bytes]) -> int:
        parts = (keys[start : start + _BULK] for start in range(0, len(keys), _BULK))
        return sum(self._run("drop", queue, *part) for part in parts)

    def close(self) -> None:
        self._pool.close()


class RedisConsumer:
    """See `celeriac.brokers.contract.Consumer`. One connection carries takes, settlements and wake-ups.

    `_lock` guards the connection. A thread that waits in `take` waits outside the lock, for the socket or
    for a byte in `_alarm`, which `wake` and other threads that saw a push write.
    """

    def __init__(
        self, broker: RedisBroker, address: Address, queues: Sequence[str], owner: str, lease: float
    ) -> None:
        self._broker = broker
        self._address = address
        self._queues = list(queues)
        self._queue_of = {broker.base(queue).encode(): queue for queue in queues}
        self._first_owner = owner
        self._generation = 0
        self._owner = owner
        self._lease = lease
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._opened = False
        self._rung: set[str] = set()
        self._turn = 0
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
            for queue in self._queues:
                connection.call("SADD", self._address.prefix + "queues", queue)
                arguments = (self._owner, int(self._lease * 1000))
                connection.script(_SCRIPTS["open"], self._broker.base(queue), *arguments)
            self._opened = True
        return connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _conversation(self) -> Generator[Connection]:
        with self._lock, broker_errors(self._broker.place):
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
            self._turn += 1
            count = len(self._queues)
            for step in range(count):
                queue = self._queues[(self._turn + step) % count]
                reply = connection.script(_SCRIPTS["take"], self._broker.base(queue), self._owner, limit)
                if reply == b"LOST":
                    self._start_over()
                if len(reply) > 1:
                    self._leave_benches(connection, queue)
                    return self._deliveries(queue, reply), 0.0
                self._waits_in.add(queue)
                if reply:
                    look_again = min(look_again, reply[0] / 1000)
        return [], look_again

    def _leave_benches(self, connection: Connection, taken_from: str) -> None:
        """We have work: no other queue should wake us. The take script did so for its own queue."""
        others = self._waits_in - {taken_from}
        self._waits_in.clear()
        if others:
            connection.pipeline([("SREM", self._broker.base(queue) + ":i", self._owner) for queue in others])

    def _deliveries(self, queue: str, reply: Reply) -> list[Delivery]:
        owner, fence = self._owner, reply[0]
        if fence < 0:
            verdict = reply[3].decode() or None
            return [Delivery(queue, reply[1], owner, -fence, reply[2], verdict)]
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
            self._note_queues(connection, group)
            reply = connection.script(_SCRIPTS["settle"], self._broker.base(queue), *arguments)
        settled, error, *fences = reply
        if error:
            exc = ServerError(error.decode(errors="replace"))
            raise BrokerRefused(f"{self._broker.place}: {explain(exc)}", done + settled)
        if not fences:
            return []
        by_fence = {one.delivery.fence: one.delivery for one in group}
        return [by_fence[int(fence)] for fence in fences]

    def _note_queues(self, connection: Connection, group: list[Settlement]) -> None:
        for settlement in group:
            for outgoing in settlement.sends:
                if outgoing.queue not in self._broker._known:  # pyright: ignore[reportPrivateUsage]
                    connection.call("SADD", self._address.prefix + "queues", outgoing.queue)

    def _add_settlement(self, arguments: list[Any], settlement: Settlement) -> None:
        delivery, action = settlement.delivery, settlement.action
        plain = not settlement.records and not settlement.sends
        if plain and type(action) is Ack and not delivery.crashes and delivery.verdict is None:
            arguments += ("A", delivery.fence)
            return
        arguments += ("F", delivery.fence, len(settlement.records), len(settlement.sends))
        prefix = self._address.prefix.encode() + b"r:"
        for record in settlement.records:
            arguments += (
                prefix + record.key,
                record.data,
                "" if record.ttl is None else int(record.ttl * 1000),
            )
        for outgoing in settlement.sends:
            arguments += self._stored(outgoing)
        match action:
            case Ack():
                arguments.append("A")
            case Release():
                arguments.append("R")
            case Replace(successor):
                arguments.append("P")
                arguments += self._stored(successor)
            case Bury(reason, detail):
                arguments += ("X", reason, detail)

    def _stored(self, outgoing: Outgoing) -> tuple[Any, ...]:
        due = "" if outgoing.due_at is None else int(outgoing.due_at * 1000)
        return (self._broker.base(outgoing.queue), outgoing.priority, due, outgoing.data)

    def confirm(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return self._refused("confirm", deliveries)

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
                reply = connection.script(_SCRIPTS[script], self._broker.base(queue), *arguments)
            refused = {int(fence) for fence in reply}
            lost += [delivery for delivery in group if delivery.fence in refused]
        return lost

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
                    self._broker.surrender(self._queues, self._owner, {}, {}, HIGHEST_PRIORITY)
            finally:
                self._drop_connection()
                os.close(self._alarm_in)
                os.close(self._alarm_out)


class _Header(msgspec.Struct):
    """What the bury script writes of a dead letter."""

    reason: str
    detail: str
    at: float


_read_header: Final = msgspec.json.Decoder(_Header).decode
_read_casualties: Final = msgspec.json.Decoder(list[Casualty]).decode


def _dead_letter(queue: str, key: bytes, value: bytes) -> DeadLetter:
    first, casualties, data = value[1:].split(b"\n", 2)
    header = _read_header(first.decode(errors="replace"))
    return DeadLetter(
        queue=queue,
        key=bytes(key),
        data=data,
        reason=header.reason,
        detail=header.detail,
        died_at=header.at,
        casualties=_read_casualties(casualties.decode(errors="replace")),
    )
