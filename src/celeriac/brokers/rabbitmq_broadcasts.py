"""Broadcasts at RabbitMQ: a register of the queues that have copies, each with the end of its time.

See `celeriac.brokers.abilities.Broadcasting`, and docs/design/0013-broadcast-queues.md for who makes the copies: the
server's own fanout exchanges do not.
"""

from __future__ import annotations

from celeriac import clock
from celeriac.brokers.rabbitmq_leases import Leases
from celeriac.brokers.rabbitmq_names import PARTS
from celeriac.brokers.rabbitmq_routes import Change, Routes
from celeriac.brokers.rabbitmq_seizing import Register
from celeriac.drivers.amqp import Connection


class Broadcasts:
    """By broadcast and queue: until when (epoch seconds) it has copies. Raises OSError and ServerError."""

    def __init__(self, routes: Routes, leases: Leases) -> None:
        self._routes = routes
        self._leases = leases
        self._register = Register(routes.names.broadcasts, routes.kind, dict[str, dict[str, float]], {})

    def subscribe(self, connection: Connection, broadcast: str, queue: str, keep: float) -> None:
        with self._register.opened(connection) as draft:
            draft.value.setdefault(broadcast, {})[queue] = clock.now() + keep
            draft.is_changed = True

    def subscribers(self, connection: Connection, broadcast: str) -> list[str]:
        now = clock.now()
        known = self._register.read(connection).get(broadcast, {})
        return sorted(queue for queue, until in known.items() if until > now)

    def forget_lapsed(self, connection: Connection, broadcast: str, grace: float) -> list[str]:
        """Whoever dies half-way leaves the queues in the register, and the next one does all of it again."""
        before = clock.now() - grace
        with self._register.opened(connection) as draft:
            known = draft.value.get(broadcast, {})
            lapsed = sorted(queue for queue, until in known.items() if until <= before)
            if lapsed:
                self._delete(connection, lapsed)
                for queue in lapsed:
                    del known[queue]
                if not known:
                    del draft.value[broadcast]
                draft.is_changed = True
        return lapsed

    def _delete(self, connection: Connection, queues: list[str]) -> None:
        """What is delayed goes as well: when it comes out of the chain, it has nowhere to go."""
        routes = self._routes
        with routes.queues.opened(connection) as draft:
            for queue in queues:
                draft.value.pop(queue, None)
                draft.told.append(routes.change(Change(queue, is_gone=True)))
            draft.is_changed = True
        self._leases.end_takers(connection, queues)
        with connection.borrowed() as channel:
            for queue in queues:
                for part in PARTS:
                    channel.delete(routes.names.part(queue, part))
            channel.gather()
        routes.forget()
