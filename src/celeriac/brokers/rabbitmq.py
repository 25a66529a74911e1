"""The broker at a RabbitMQ server (`amqp://`), 3.10 or later. Why it is made so: docs/design/0009-rabbitmq.md.

A queue is several queues of the server (`rabbitmq_names`). A take moves messages into a queue of the owner's own, his
holding (`rabbitmq_consumer`); whoever ends his lease moves them on (`rabbitmq_leases`). What else is to be known is in
registers (`rabbitmq_seizing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from celeriac import clock
from celeriac.brokers import rabbitmq_letters as letters
from celeriac.brokers import rabbitmq_revoking as revoking
from celeriac.brokers.contract import Casualty, DeadLetter, Outgoing, QueueStats, Revocation
from celeriac.brokers.pruning import Pruned
from celeriac.brokers.rabbitmq_consumer import RabbitConsumer
from celeriac.brokers.rabbitmq_leases import Ending, Leases
from celeriac.brokers.rabbitmq_listener import RabbitListener, notice
from celeriac.brokers.rabbitmq_names import DEAD, TAKEN, word
from celeriac.brokers.rabbitmq_routes import Change, Known, Post, Routes, post
from celeriac.drivers.amqp import Connection, Pool
from celeriac.drivers.amqp_address import (
    UNBORN,
    UNBORN_PAUSE,
    UNBORN_TRIES,
    Address,
    ServerError,
    broker_errors,
)
from celeriac.exceptions import BrokerUnavailable
from celeriac.urls import Url

T = TypeVar("T")

#: Messages that are published before their confirmations are waited for.
_BULK: Final = 5_000
#: Seconds between two signs of life of a process that keeps others out: thrice that, and the server lets them in.
_HEARTBEAT: Final = 10
#: Seconds between two tries of a send; the first retry comes at once.
_RETRY_PAUSE: Final = 0.05


class RabbitBroker:
    """See `celeriac.brokers.contract.Broker`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        #: For verbs that keep others out for a moment, and for sends, which do not.
        self._pool = Pool(self._address, _HEARTBEAT)
        self._senders = Pool(self._address, 0)
        self._routes = Routes(self._address)
        self._leases = Leases(self._routes)
        self._bans = revoking.Bans(self._routes)
        self._pruner = letters.Pruner(self._routes)

    @property
    def place(self) -> str:
        return self._address.place

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        deadline = clock.monotonic() + timeout
        for start in range(0, len(batch), _BULK):
            self._send_part([post(one) for one in batch[start : start + _BULK]], timeout, deadline)

    def _send_part(self, posts: Sequence[Post], timeout: float, deadline: float) -> None:
        """Store messages. The server cannot tell a second try from a second message: some may be there twice."""
        is_first = True
        while True:
            try:
                with broker_errors(self.place):
                    self._send_once(posts, deadline)
                return
            except BrokerUnavailable as exc:
                self._routes.forget()
                if clock.monotonic() + _RETRY_PAUSE >= deadline:
                    raise BrokerUnavailable(f"not stored within {timeout:g} s: {exc}") from exc
                if not is_first:
                    clock.sleep(_RETRY_PAUSE)
                is_first = False

    def _send_once(self, posts: Sequence[Post], deadline: float) -> None:
        parts = {(one.queue, one.part) for one in posts}
        if self._routes.lacks(parts):
            with self._pool.connection(deadline - clock.monotonic()) as connection:
                self._routes.ensure(connection, parts)
        with self._senders.connection(deadline - clock.monotonic()) as connection:
            self._routes.send(connection, posts)

    # -- consuming ----------------------------------------------------------------------------------------

    def consumer(
        self, queues: Sequence[str], owner: str, *, lease: float, max_deliveries: int
    ) -> RabbitConsumer:
        return RabbitConsumer(self._address, queues, owner, lease)

    def renew(
        self, queues: Sequence[str], owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        return self._call(lambda line: self._leases.renew(line, owners, lease, max_deliveries))

    def surrender(
        self,
        queues: Sequence[str],
        owner: str,
        casualties: Mapping[bytes, Casualty],
        verdicts: Mapping[bytes, str],
        max_deliveries: int,
    ) -> int:
        ending = Ending("", dict(casualties), dict(verdicts))
        return self._call(lambda line: self._leases.surrender(line, owner, ending, max_deliveries))

    # -- revoking and telling -----------------------------------------------------------------------------

    def revoke(self, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
        self._call(lambda line: revoking.revoke(self._routes, line, queue, revocations, keep))
        return []

    def revoked(self, queue: str) -> list[Revocation]:
        found = self._call(lambda line: revoking.read(self._routes, line, queue))
        return [Revocation(one.key, one.terminate, one.signal) for one in found]

    def ban(self, ban: bytes, keep: float) -> None:
        self._call(lambda line: self._bans.add(line, ban, keep))

    def bans(self) -> list[bytes]:
        return self._call(self._bans.read)

    def notify(self, name: str, data: bytes) -> int:
        def tell(line: Connection) -> None:
            self._routes.ensure_exchanges(line)
            channel = line.confirming
            channel.publish(self._routes.names.notices, word(name), notice(name, data), persistent=False)
            channel.wait_confirmed()

        self._call(tell)
        return 0

    def listen(self, names: Sequence[str]) -> RabbitListener:
        return RabbitListener(self._address, names)

    # -- looking and tending ------------------------------------------------------------------------------

    def queues(self) -> list[str]:
        known = self._call(self._routes.queues.read)
        return sorted(name for name, one in known.items() if not {*TAKEN, DEAD}.isdisjoint(one.parts))

    def stats(self, queue: str) -> QueueStats:
        def look(line: Connection) -> QueueStats:
            known = self._routes.queues.read(line).get(queue) or Known()
            parts = [part for part in known.parts if part in TAKEN]
            ready = sum(letters.count(self._routes, line, queue, part) for part in parts)
            dead = letters.count(self._routes, line, queue, DEAD) if DEAD in known.parts else 0
            return QueueStats(queue, ready, None, None, dead, paused=known.paused, evicted=known.evicted)

        return self._call(look)

    def purge(self, queue: str) -> int:
        def empty(line: Connection) -> int:
            known = self._routes.queues.read(line).get(queue) or Known()
            total = 0
            for part in known.parts:
                if part in TAKEN:
                    with line.borrowed() as channel:
                        channel.purge(self._routes.names.part(queue, part))
                        total += int.from_bytes(channel.gather()[-1][:4], "big")
            return total

        return self._call(empty)

    def pause(self, queue: str) -> None:
        self._call(lambda line: self._set_paused(line, queue, True))

    def resume(self, queue: str) -> None:
        self._call(lambda line: self._set_paused(line, queue, False))

    def _set_paused(self, line: Connection, queue: str, paused: bool) -> None:
        self._routes.ensure_exchanges(line)
        with self._routes.queues.opened(line) as draft:
            draft.value.setdefault(queue, Known()).paused = paused
            draft.is_changed = True
            draft.told.append(self._routes.change(Change(queue, paused=paused)))

    def dead(self, queue: str, *, after: bytes | None = None, limit: int = 100) -> list[DeadLetter]:
        every = self._letters(queue)
        keys = [letter.key for letter in every]
        start = keys.index(after) + 1 if after in keys else 0
        return every[start : start + limit]

    def find_dead(self, queue: str, key: bytes) -> DeadLetter | None:
        return next((letter for letter in self._letters(queue) if letter.key == key), None)

    def _letters(self, queue: str) -> list[DeadLetter]:
        def look(line: Connection) -> list[DeadLetter]:
            with letters.opened(self._routes, line, queue) as found:
                return [] if found is None else [one.letter for one in found.all]

        return self._call(look)

    def replay(self, queue: str, keys: Sequence[bytes]) -> int:
        return self._end(queue, keys, letters.replayed)

    def drop(self, queue: str, keys: Sequence[bytes]) -> int:
        return self._end(queue, keys, None)

    def _end(self, queue: str, keys: Sequence[bytes], back: Callable[[letters.Found], Post] | None) -> int:
        wanted = set(keys)

        def end(line: Connection) -> int:
            with letters.opened(self._routes, line, queue) as found:
                if found is None:
                    return 0
                return found.end([one for one in found.all if one.letter.key in wanted], back)

        return self._call(end) if wanted else 0

    def cautions(self) -> list[str]:
        return []

    def prune_dead(self, queue: str, keep: int | None, lifetime: float | None, limit: int = 200) -> Pruned:
        prune = self._pruner.prune
        return self._call(lambda line: prune(line, queue, keep=keep, lifetime=lifetime, limit=limit))

    def close(self) -> None:
        self._pool.close()
        self._senders.close()

    def _call(self, verb: Callable[[Connection], T]) -> T:
        with broker_errors(self.place):
            for _ in range(UNBORN_TRIES):
                try:
                    with self._pool.connection(self._address.timeout) as connection:
                        return verb(connection)
                except ServerError as exc:
                    self._routes.forget()
                    if exc.code != UNBORN:
                        raise
                clock.sleep(UNBORN_PAUSE)
            with self._pool.connection(self._address.timeout) as connection:
                return verb(connection)
