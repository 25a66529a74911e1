"""The consumer of the Redis broker: takes and settles over one connection, and waits for its wake-up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final

import msgspec

from celeriac import clock
from celeriac.brokers.contract import (
    HIGHEST_PRIORITY,
    Ack,
    Bury,
    Delivery,
    Outgoing,
    PutBack,
    Record,
    Release,
    Replace,
    Settlement,
)
from celeriac.brokers.redis_keys import SCRIPTS, Keyspace
from celeriac.drivers.alarm import Alarm
from celeriac.drivers.redis import Address, Command, Connection, Reply, ServerError, broker_errors
from celeriac.drivers.redis_joins import delay_text, opening
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
        self._bases = [self._keys.base(queue) for queue in queues]
        self._queue_of = {base.encode(): queue for base, queue in zip(self._bases, queues, strict=True)}
        self._first_owner = owner
        self._generation = 0
        self._owner = owner
        self._lease = lease
        self._lock = threading.RLock()
        #: By server: one, or in a cluster one for each node that has one of our queues.
        self._lines: dict[Address, Connection] = {}
        self._opened = False
        self._rung: set[str] = set()
        self._turn = 0
        self._takes = 0
        #: By queue: the last fence that has arrived, and which takes have been asked for and not been answered.
        self._arrived: dict[str, int] = {}
        self._unanswered: set[str] = set()
        self._waits_in: set[str] = set()
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

    def _line(self, key: str) -> Connection:
        """The connection to the server that has a key, with the wake-up channel subscribed. Under the lock."""
        address = self._address.at(key, self._address.timeout)
        connection = self._lines.get(address)
        if connection is None:
            connection = Connection(address, self._address.timeout)
            try:
                connection.set_timeout(self._address.timeout)
                connection.subscribe(f"celeriac.wake:{self._owner}")
            except BaseException:
                connection.close()
                raise
            self._lines[address] = connection
            # What was published while we were away is lost: look into every queue.
            self._rung.update(self._queues)
        return connection

    def _open_lease(self) -> None:
        self._list_queues(self._queues)
        for queue in self._queues:
            base = self._keys.base(queue)
            self._line(base).script(SCRIPTS["open"], base, self._owner, int(self._lease * 1000))
        self._opened = True

    def _list_queues(self, names: Iterable[str]) -> None:
        self._keys.list_queues(lambda *command: self._line(self._keys.queues).call(*command), names)

    def _drop_connections(self) -> None:
        for connection in self._lines.values():
            connection.close()
        self._lines.clear()

    @contextlib.contextmanager
    def _conversation(self) -> Generator[Callable[[str], Connection]]:
        """Calls of `_line`, with the lease open."""
        with self._lock, broker_errors(self._address.place):
            try:
                if not self._opened:
                    self._open_lease()
                yield self._line
            except ServerError:
                raise
            except BaseException:
                self._drop_connections()
                raise
            finally:
                self._note_pushes()

    def _script(self, name: str, key: str, *arguments: Any) -> Reply:
        with self._conversation() as line:
            return line(key).script(SCRIPTS[name], key, *arguments)

    def _note_pushes(self) -> None:
        """Remember which queues rang. Under the lock."""
        has_come = False
        for connection in self._lines.values():
            connection.parse_pushes()
            while connection.pushes:
                has_come = True
                push = connection.pushes.popleft()
                if push[0] == b"message" and (queue := self._queue_of.get(push[2])) is not None:
                    self._rung.add(queue)
        if has_come:
            self._alarm.ring()

    # -- taking -------------------------------------------------------------------------------------------

    def take(self, limit: int, timeout: float, order: Sequence[str] | None = None) -> list[Delivery]:
        deadline = clock.monotonic() + timeout
        while True:
            deliveries, look_again = self._look(limit, order)
            remaining = deadline - clock.monotonic()
            if deliveries or remaining <= 0 or self._told:
                self._told = False
                return deliveries
            self._wait(min(remaining, look_again))

    def _look(self, limit: int, order: Sequence[str] | None) -> tuple[list[Delivery], float]:
        """One look into the queues, in this order or in turn. Else: seconds after which to look again unasked."""
        look_again = max(_IDLE, 1.25 * len(self._queues))
        with self._conversation() as line:
            for base in self._bases:
                line(base)
            self._rung.clear()
            for queue in self._next_queues(order):
                reply = self._ask(line(self._keys.base(queue)), queue, limit)
                if reply == b"LOST":
                    self._start_over()
                if len(reply) > 1:
                    self._leave_benches(queue)
                    self._unanswered.discard(queue)
                    return self._deliveries(queue, reply), 0.0
                self._unanswered.discard(queue)
                self._waits_in.add(queue)
                if reply:
                    look_again = min(look_again, reply[0] / 1000)
        return [], look_again

    def _next_queues(self, order: Sequence[str] | None) -> list[str]:
        """All queues, each first in its turn if no order is given. What an unanswered take may keep from others comes
        before all."""
        if order is None:
            self._turn += 1
            first = self._turn % len(self._queues)
            order = self._queues[first:] + self._queues[:first]
        return sorted(order, key=self._unanswered.__contains__, reverse=True)

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

    def _leave_benches(self, taken_from: str) -> None:
        """We have work: no other queue should wake us. The take script did so for its own queue."""
        leaving: dict[Connection, list[Command]] = {}
        for queue in self._waits_in - {taken_from}:
            base = self._keys.base(queue)
            leaving.setdefault(self._line(base), []).append(("SREM", base + ":i", self._owner))
        self._waits_in.clear()
        for connection, commands in leaving.items():
            connection.pipeline(commands)

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
        self._drop_connections()
        raise LeaseLost(f"the lease of {lost} has ended; what it held was given to others")

    def _wait(self, timeout: float) -> None:
        """Wait until a queue rings or `wake` is called, at most `timeout` seconds."""
        self._alarm.silence()
        self._gather()
        if self._rung or self._told:
            return
        self._alarm.wait(timeout, list(self._lines.values()))
        self._gather()

    def _gather(self) -> None:
        with self._conversation() as line:
            if not self._lines:
                line(self._bases[0])
            for connection in self._lines.values():
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
        if self._address.cluster is not None and any(_elsewhere(queue, one) for one in group):
            return self._settle_in_cluster(queue, owner, group, done)
        arguments: list[Any] = [owner]
        for settlement in group:
            self._add_settlement(arguments, settlement)
        with self._conversation() as line:
            self._list_queues(sent.queue for one in group for sent in one.sends)
            base = self._keys.base(queue)
            reply = line(base).script(SCRIPTS["settle"], base, *arguments)
        settled, error, *fences = reply
        if error:
            told = ServerError(error.decode(errors="replace")).explain()
            raise BrokerRefused(f"{self._address.place}: {told}", done + settled)
        if not fences:
            return []
        by_fence = {one.delivery.fence: one.delivery for one in group}
        return [by_fence[int(fence)] for fence in fences]

    def _settle_in_cluster(
        self, queue: str, owner: str, group: list[Settlement], done: int
    ) -> list[Delivery]:
        """What goes to other queues is stored before the rest is settled, under marks that make a repeat harmless.

        What is stored so for a delivery that is lost meanwhile comes again from whoever has it now.
        """
        lost = self.confirm([one.delivery for one in group])
        fences = {one.fence for one in lost}
        held = [one for one in group if one.delivery.fence not in fences]
        if not held:
            return lost
        self._follow(queue, held)
        return lost + self._settle_group(queue, owner, [_without(queue, one) for one in held], done)

    def _follow(self, queue: str, group: list[Settlement]) -> None:
        """Store what settlements of a queue send to others."""
        follow: dict[str, list[Any]] = {}
        for one in group:
            for number, sent in enumerate(_elsewhere(queue, one)):
                words = follow.setdefault(sent.queue, [])
                words += (f"{queue}:{one.delivery.fence}:{number}", *self._keys.stored(sent)[1:])
        with self._conversation() as line:
            self._list_queues(follow)
            for other, words in follow.items():
                base = self._keys.base(other)
                line(base).script(SCRIPTS["follow"], base, *words)

    def _add_settlement(self, arguments: list[Any], settlement: Settlement) -> None:
        delivery, action = settlement.delivery, settlement.action
        parts = (
            settlement.records, settlement.sends, settlement.arrivals, settlement.joins, settlement.opens,
        )  # fmt: skip
        if not any(parts) and type(action) is Ack and not delivery.crashes and delivery.verdict is None:
            arguments += ("A", delivery.fence)
            return
        arguments += ("F", delivery.fence, *map(len, parts))
        for record in settlement.records:
            arguments += self._stored_record(record)
        for outgoing in settlement.sends:
            arguments += self._keys.stored(outgoing)
        for arrival in settlement.arrivals:
            arguments += (self._keys.joins + arrival.join, arrival.place, arrival.data)
        arguments += (self._keys.joins + key for key in settlement.joins)
        for join in settlement.opens:
            arguments += (self._keys.joins + join.key, *opening(join))
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
        return bool(self._script("note", self._keys.base(delivery.queue), *arguments))

    def commit(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return self._refused("commit", deliveries)

    def _refused(self, script: str, deliveries: Sequence[Delivery]) -> list[Delivery]:
        groups: dict[tuple[str, str], list[Delivery]] = {}
        for delivery in deliveries:
            groups.setdefault((delivery.queue, delivery.owner), []).append(delivery)
        lost: list[Delivery] = []
        for (queue, owner), group in groups.items():
            arguments = (owner, *(delivery.fence for delivery in group))
            reply = self._script(script, self._keys.base(queue), *arguments)
            refused = {int(fence) for fence in reply}
            lost += [delivery for delivery in group if delivery.fence in refused]
        return lost

    def bans(self) -> list[bytes]:
        return list(self._script("bans", self._keys.bans))

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
                if self._opened:
                    for base in self._bases:
                        self._script("surrender", base, self._owner, HIGHEST_PRIORITY, 0)
            finally:
                self._drop_connections()
                self._alarm.close()


def _elsewhere(queue: str, one: Settlement) -> list[Outgoing]:
    """What a settlement of that queue sends to others: in a cluster these are on other nodes."""
    found = [sent for sent in one.sends if sent.queue != queue]
    if isinstance(one.action, Replace) and one.action.successor.queue != queue:
        found.append(one.action.successor)
    return found


def _without(queue: str, one: Settlement) -> Settlement:
    """What is left of it when that has been sent."""
    action = one.action
    if isinstance(action, Replace) and action.successor.queue != queue:
        action = Ack()
    sends = [sent for sent in one.sends if sent.queue == queue]
    return msgspec.structs.replace(one, sends=sends, action=action)
