"""Revocations and bans at RabbitMQ: registers, of which consumers are told. What waits is judged in its turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from celeriac import clock
from celeriac.brokers.contract import MOST_BANS, REMEMBERED, Revocation
from celeriac.brokers.rabbitmq_names import REVOKED_PART
from celeriac.brokers.rabbitmq_routes import Change, Known, Routes
from celeriac.brokers.rabbitmq_seizing import Register
from celeriac.drivers.amqp import Connection

#: So many revocations that were used up are forgotten at the latest.
_MOST_USED: Final = 100


class Remembered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A revocation, and until when (epoch seconds) it holds."""

    key: bytes
    until: float
    terminate: bool = False
    signal: str = ""


def _register(routes: Routes, queue: str) -> Register[list[Remembered]]:
    name = routes.names.part(queue, REVOKED_PART)
    return Register(name, routes.kind, list[Remembered], [])


def revoke(
    routes: Routes, connection: Connection, queue: str, revocations: Sequence[Revocation], keep: float
) -> None:
    """Remember revocations."""
    if not revocations:
        return
    routes.ensure(connection, [(queue, REVOKED_PART)])
    with _register(routes, queue).opened(connection) as draft:
        now = clock.now()
        known = {one.key: one for one in draft.value if one.until > now}
        for one in revocations:
            until, terminate, signal = now + keep, one.terminate, one.signal
            if (old := known.pop(one.key, None)) is not None:
                until = max(until, old.until)
                if old.terminate and not terminate:
                    terminate, signal = True, old.signal
            known[one.key] = Remembered(one.key, until, terminate, signal)
        draft.value = list(known.values())[-REMEMBERED:]
        draft.is_changed = True
        asked = {one.key for one in revocations}
        told = {one.key: one.until for one in draft.value if one.key in asked}
        draft.told.append(routes.change(Change(queue, revoked=told)))


def read(routes: Routes, connection: Connection, queue: str, known: Known | None = None) -> list[Remembered]:
    """What is remembered, the oldest first. `known`: what is known of the queue, if that was asked for already."""
    known = known or routes.queues.read(connection).get(queue)
    if known is None or REVOKED_PART not in known.parts:
        return []
    now = clock.now()
    return [one for one in _register(routes, queue).read(connection) if one.until > now]


def forget(routes: Routes, connection: Connection, queue: str, keys: Iterable[bytes]) -> None:
    """These were delivered with the verdict."""
    gone = set(keys)
    with _register(routes, queue).opened(connection) as draft:
        draft.value = [one for one in draft.value if one.key not in gone]
        draft.is_changed = True
        draft.told.append(routes.change(Change(queue, forgotten=sorted(gone))))


class Used:
    """Revocations that deliveries have used up, until they are forgotten where they are remembered.

    That is a step of its own: of a run of deliveries that have used some up, only the first takes it at once.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._keys: dict[str, list[bytes]] = {}
        self._is_run = False

    def note(self, connection: Connection, queue: str, keys: Sequence[bytes]) -> None:
        """What was taken last, of this queue, has used these up."""
        used = self._keys.setdefault(queue, [])
        used += keys
        was_run, self._is_run = self._is_run, bool(keys)
        if not (was_run and self._is_run) or len(used) >= _MOST_USED:
            self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """All of them."""
        for queue, keys in self._keys.items():
            if keys:
                forget(self._routes, connection, queue, keys)
        self._keys.clear()


class Bans:
    """What is revoked without being known by its key, with the end of each ban (epoch seconds)."""

    def __init__(self, routes: Routes) -> None:
        self._register = Register(routes.names.bans, routes.kind, list[tuple[bytes, float]], [])

    def add(self, connection: Connection, ban: bytes, keep: float) -> None:
        with self._register.opened(connection) as draft:
            now = clock.now()
            bans = {one: until for one, until in draft.value if until > now}
            bans[ban] = max(now + keep, bans.get(ban, 0.0))
            draft.value = sorted(bans.items(), key=lambda item: item[1])[-MOST_BANS:]
            draft.is_changed = True

    def read(self, connection: Connection) -> list[bytes]:
        """The soonest to be forgotten first."""
        now = clock.now()
        return [one for one, until in self._register.read(connection) if until > now]
