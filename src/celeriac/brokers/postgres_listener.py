"""Hears notices over a connection of its own, which it makes anew when it is lost.

Notices are rows, which a notification only makes it read: so they may be long, and they come through a pooler too,
which passes no notifications, by asking once a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from celeriac import clock
from celeriac.brokers import postgres_verbs as verbs
from celeriac.brokers.line_listener import LineListener
from celeriac.drivers.postgres import Address, Connection, broker_errors
from celeriac.drivers.postgres_schema import connected

#: Seconds between two looks without a notification: where they come, and where they do not.
_SILENCE: Final = 15.0
_POLL: Final = 1.0
#: Who has not looked for so many seconds may have missed a notice; they live for a minute.
_LIFE: Final = 55.0


class PostgresListener(LineListener[Connection]):
    """See `celeriac.brokers.contract.Listener`."""

    def __init__(self, address: Address, names: Sequence[str]) -> None:
        self._address = address
        self._names = list(names)
        #: The notices of the last minute that were heard, or were told before we listened.
        self._heard: set[int] = set()
        self._looked_at = 0.0
        super().__init__(partial(broker_errors, address.place))

    def _wait(self, deadline: float) -> list[tuple[str, bytes]]:
        while not self._is_closed:
            connection = self._connected()
            every = _SILENCE if connection.hears else _POLL
            now = clock.monotonic()
            if connection.gather() or now >= self._looked_at + every:
                connection.pushes.clear()
                if told := self._look(connection):
                    return told
            remaining = deadline - now
            pause = min(remaining, self._looked_at + every - now)
            if remaining <= 0 or connection.wait_readable(pause, self._alarm):
                self._alarm.silence()
                return []
        return []

    def _connect(self) -> Connection:
        connection = connected(self._address, self._address.timeout)
        try:
            if connection.hears:
                connection.call(verbs.HEAR, "", [f"notice {name}" for name in self._names])
            self._heard.clear()
            self._looked_at = clock.monotonic()
            self._look(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _look(self, connection: Connection) -> list[tuple[str, bytes]]:
        now = clock.monotonic()
        silent, self._looked_at = now - self._looked_at, now
        if silent > _LIFE:
            raise ConnectionError(f"this listener has not looked for {silent:.0f} s")
        rows = connection.call(verbs.TOLD, self._names, sorted(self._heard))
        self._heard.update(serial for serial, _, _ in rows)
        return [(name, data) for _, name, data in rows]
