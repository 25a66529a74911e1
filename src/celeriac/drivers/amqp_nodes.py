"""Connections to a RabbitMQ cluster: any of its nodes will do, and whoever has lost his goes to another.

With one host in the URL there is one to try. Errors leave this module as those of `celeriac.drivers.amqp`.
"""

from __future__ import annotations

from celeriac import clock
from celeriac.drivers import pool
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import Address, ServerError


def connect(address: Address, timeout: float, heartbeat: int = 0) -> Connection:
    """A connection to the first host that lets us in, within `timeout` seconds, of which each has a share: one that
    hangs leaves time for the others. Raises: OSError: none does; it tells why of each. ServerError: one refuses us for
    a reason that all have."""
    deadline = clock.monotonic() + timeout
    places = address.order()
    troubles: list[str] = []
    for left, place in zip(range(len(places), 0, -1), places, strict=True):
        share = (deadline - clock.monotonic()) / left
        try:
            connection = Connection(address, max(0.05, share), heartbeat, place)
        except (OSError, ServerError) as exc:
            address.note(place, answered=False)
            if len(places) == 1 or not _may_differ(exc):
                raise
            troubles.append(f"{place[0]}:{place[1]}: {exc or type(exc).__name__}")
            continue
        address.note(place, answered=True)
        connection.set_timeout(timeout)
        return connection
    raise ConnectionError("; ".join(troubles))


def _may_differ(error: OSError | ServerError) -> bool:
    """Whether another node may answer otherwise. Passwords and certificates are those of the cluster."""
    if isinstance(error, ServerError):
        return error.passing
    return not getattr(error, "verify_code", 0)


class Pool(pool.Pool[Connection]):
    """Connections of one process, for verbs that take a moment. See `celeriac.drivers.pool`.

    With heartbeats the server hangs up on those that are idle for twice as long, and is soon rid of what the process
    held by one of them when its machine is gone.
    """

    def __init__(self, address: Address, heartbeat: int) -> None:
        super().__init__(lambda timeout: connect(address, timeout, heartbeat), address.pool_limit)
