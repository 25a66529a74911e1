"""The broker at a RabbitMQ server (`amqp://`), 3.10 or later. Why it is made so: docs/design/0009-rabbitmq.md.

A queue is several queues of the server (`rabbitmq_names`). A take moves messages into a queue of the owner's own, his
holding (`rabbitmq_consumer`); whoever ends his lease moves them on (`rabbitmq_leases`). What else is to be known is in
registers (`rabbitmq_seizing`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from celeriac import clock
from celeriac.brokers import rabbitmq_letters as letters
from celeriac.brokers import rabbitmq_moving as moving
from celeriac.brokers import rabbitmq_revoking as revoking
from celeriac.brokers import room
from celeriac.brokers.abilities import Crate
from celeriac.brokers.contract import Casualty, DeadLetter, Outgoing, QueueStats, Revocation
from celeriac.brokers.pruning import Pruned
from celeriac.brokers.rabbitmq_broadcasts import Broadcasts
from celeriac.brokers.rabbitmq_consumer import RabbitConsumer
from celeriac.brokers.rabbitmq_leases import Ending, Leases
from celeriac.brokers.rabbitmq_listener import RabbitListener, notice
from celeriac.brokers.rabbitmq_names import DEAD, TAKEN, word
from celeriac.brokers.rabbitmq_room import Room
from celeriac.brokers.rabbitmq_routes import Change, Known, Post, Routes, post
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import (
    UNBORN,
    UNBORN_PAUSE,
    UNBORN_TRIES,
    Address,
    ServerError,
    broker_errors,
)
from celeriac.drivers.amqp_nodes import Pool
from celeriac.exceptions import BrokerUnavailable
from celeriac.urls import Url

T = TypeVar("T")

#: Messages that are published before their confirmations are waited for.
_BULK: Final = 5_000
#: Seconds between two signs of life of a process that keeps others out: thrice that, and the server lets them in.
_HEARTBEAT: Final = 10
#: The same of a process that only sends. By its own signs the server gets rid of those whose process has gone.
_SENDERS_HEARTBEAT: Final = 300
#: Seconds that all but a send waits for the end of an alarm.
_PATIENCE: Final = 1.0
#: Seconds between two tries of a send; the first retry comes at once.
_RETRY_PAUSE: Final = 0.05


class RabbitBroker:
    """See `celeriac.brokers.contract.Broker`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        #: For verbs that keep others out for a moment, and for sends, which do not.
        self._pool = Pool(self._address, _HEARTBEAT)
        self._senders = Pool(self._address, _SENDERS_HEARTBEAT)
        self._routes = Routes(self._address)
        self._leases = Leases(self._routes)
        self._bans = revoking.Bans(self._routes)
        self._broadcasts = Broadcasts(self._routes, self._leases)
        self._pruner = letters.Pruner(self._routes)
        self._room = Room(self._routes)

    @property
    def place(self) -> str:
        return self._address.place

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        deadline = clock.monotonic() + timeout
        for start in range(0, len(batch), _BULK):
            posts = [post(one) for one in batch[start : start + _BULK]]
            # The server cannot tell a second try from a second message: some may be there twice.
            self._patiently(partial(self._send_once, posts), timeout, deadline)

    def send_limited(self, batch: Sequence[Outgoing], most: Mapping[str, int], timeout: float) -> None:
        """See `celeriac.brokers.abilities.Limiting`. All of it is stored or none, also of many queues."""
        deadline = clock.monotonic() + timeout
        with contextlib.ExitStack() as turn:
            full = self._patiently(lambda _: self._take_turn(turn, batch, most, deadline), timeout, deadline)
            if not full:
                self.send(batch, deadline - clock.monotonic())
        if full:
            raise room.full(full[0], most[full[0]])

    def _take_turn(
        self, turn: contextlib.ExitStack, batch: Sequence[Outgoing], most: Mapping[str, int], deadline: float
    ) -> list[str]:
        """The queues that are too full, until the end of `turn`."""
        with contextlib.ExitStack() as taking:
            line = taking.enter_context(self._open_for(self._pool, deadline))
            full = taking.enter_context(self._room.turn(line, batch, most, deadline))
            turn.enter_context(taking.pop_all())
            return full

    def _patiently(self, step: Callable[[float], T], timeout: float, deadline: float) -> T:
        """Do a step of a send, which is told until when, again and again until it is done.

        In a cluster the first try leaves half of the time: another node may answer where one hangs.
        """
        is_first = True
        while True:
            now = clock.monotonic()
            until = now + (deadline - now) / 2 if is_first and self._address.is_cluster else deadline
            try:
                with broker_errors(self.place):
                    return step(until)
            except BrokerUnavailable as exc:
                cause = exc.__cause__
                if isinstance(cause, ServerError) and not cause.is_blocked:
                    self._routes.forget()
                if clock.monotonic() + _RETRY_PAUSE >= deadline:
                    raise BrokerUnavailable(f"not stored within {timeout:g} s: {exc}") from exc
                if not is_first:
                    clock.sleep(_RETRY_PAUSE)
                is_first = False

    def _send_once(self, posts: Sequence[Post], deadline: float) -> None:
        parts = {(one.queue, one.part) for one in posts}
        if self._routes.lacks(parts):
            with self._open_for(self._pool, deadline) as connection:
                self._routes.ensure(connection, parts)
        with self._open_for(self._senders, deadline) as connection:
            self._routes.send(connection, posts)

    @contextlib.contextmanager
    def _open_for(self, pool: Pool, deadline: float) -> Generator[Connection]:
        """A connection over which the server stores, for calls that have ended by the monotonic deadline."""
        patience = deadline - clock.monotonic()
        with pool.connection(patience) as connection, connection.until(deadline):
            connection.await_flow(patience)
            yield connection

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
            channel.publish(
                self._routes.names.notices, word(name), notice(name, data), persistent=False, mandatory=False
            )
            channel.wait_confirmed()

        self._call(tell)
        return 0

    def listen(self, names: Sequence[str]) -> RabbitListener:
        return RabbitListener(self._address, names)

    # -- broadcasts: see `celeriac.brokers.abilities.Broadcasting` --------------------------------------------

    def subscribe(self, broadcast: str, queue: str, keep: float) -> None:
        self._call(lambda line: self._broadcasts.subscribe(line, broadcast, queue, keep))

    def subscribers(self, broadcast: str) -> list[str]:
        return self._call(lambda line: self._broadcasts.subscribers(line, broadcast))

    def forget_lapsed(self, broadcast: str, grace: float) -> list[str]:
        return self._call(lambda line: self._broadcasts.forget_lapsed(line, broadcast, grace))

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

    # -- moving: see `celeriac.brokers.abilities.Movable` -----------------------------------------------------

    def pack(self, queue: str, target: str, limit: int) -> Crate | None:
        return self._call(lambda line: moving.pack(self._routes, line, queue, target, limit))

    def unpack(self, crate: Crate) -> bool:
        return self._call(lambda line: moving.unpack(self._routes, line, crate))

    def discard(self, crate: Crate) -> None:
        self._call(lambda line: moving.discard(self._routes, line, crate))

    def close(self) -> None:
        self._pool.close()
        self._senders.close()

    def _call(self, verb: Callable[[Connection], T]) -> T:
        with broker_errors(self.place):
            for _ in range(UNBORN_TRIES):
                try:
                    return self._call_once(verb)
                except ServerError as exc:
                    if not exc.is_blocked:
                        self._routes.forget()
                    if exc.code != UNBORN:
                        raise
                clock.sleep(UNBORN_PAUSE)
            return self._call_once(verb)

    def _call_once(self, verb: Callable[[Connection], T]) -> T:
        with self._pool.connection(self._address.timeout) as connection:
            connection.await_flow(_PATIENCE)
            return verb(connection)
