"""Queues of RabbitMQ with a greatest length. See `celeriac.brokers.abilities.Limiting`.

The server's own limit (`x-max-length` with `reject-publish`) would refuse what is given back too, and half of a batch,
and could not be changed without leave to set policies. So what waits is counted before a send: while there is room
enough, by all senders as they come; near the limit by one at a time, who has the part `turn` of the queue, in which
nothing is. What is delayed is not counted, as nobody can look at it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Final

from celeriac import clock
from celeriac.brokers.contract import Outgoing
from celeriac.brokers.rabbitmq_names import TAKEN, TURN, part_of
from celeriac.brokers.rabbitmq_routes import Routes
from celeriac.brokers.rabbitmq_seizing import Seizure, queue_arguments, seized
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import ServerError
from celeriac.drivers.amqp_channel import counts

#: Senders take no turns where so many more messages would fit.
_AT_EASE: Final = 1_000
#: Seconds for which it is known which parts a queue has.
_KNOWN: Final = 5.0


class Room:
    """Counts what waits. Safe for threads, as what two of them look up is the same."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        #: By queue: its parts with messages to take, and when (monotonic) that was asked.
        self._parts: dict[str, tuple[list[str], float]] = {}

    @contextlib.contextmanager
    def turn(
        self, connection: Connection, batch: Sequence[Outgoing], most: Mapping[str, int], deadline: float
    ) -> Generator[list[str]]:
        """The queues that this batch does not fit in; nobody else makes them fuller meanwhile, if they are nearly full.

        Raises: OSError, ServerError: among others because it is not our turn by the monotonic deadline.
        """
        self._routes.ensure(connection, {(one.queue, part_of(one.priority)) for one in batch})
        asked = Counter(one.queue for one in batch if one.queue in most)
        room = {queue: most[queue] - count for queue, count in asked.items()}
        now = clock.monotonic()
        waiting = {queue: self._count(connection, queue, now - _KNOWN) for queue in asked}
        tight = sorted(queue for queue in asked if waiting[queue] + _AT_EASE > room[queue])
        self._routes.ensure(connection, [(queue, TURN) for queue in tight])
        with contextlib.ExitStack() as turns:
            for queue in tight:
                # It waits twice.
                connection.set_timeout((deadline - clock.monotonic()) / 2)
                name = self._routes.names.part(queue, TURN)
                turns.callback(_end, turns.enter_context(seized(connection, name)))
                waiting[queue] = self._count(connection, queue, clock.monotonic())
            yield [queue for queue in asked if waiting[queue] > room[queue]]

    def _count(self, connection: Connection, queue: str, known_at: float) -> int:
        """How many wait. `known_at`: when the parts of the queue must have been looked up, or later."""
        parts, at = self._parts.get(queue, ([], 0.0))
        if at < known_at:
            now = clock.monotonic()
            known = self._routes.queues.read(connection).get(queue)
            parts = [part for part in known.parts if part in TAKEN] if known else []
            self._parts[queue] = parts, now
        with connection.borrowed() as channel:
            for part in parts:
                channel.declare(self._routes.names.part(queue, part), queue_arguments(self._routes.kind))
            return sum(counts(answer)[0] for answer in channel.gather()[-len(parts) :]) if parts else 0


def _end(turn: Seizure) -> None:
    """What was sent is sent: it is no matter how the turn ends."""
    with contextlib.suppress(OSError, ServerError):
        turn.end()
