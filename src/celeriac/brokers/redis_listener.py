"""Hears notices over a connection of its own, which it makes anew when it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from celeriac import clock
from celeriac.brokers.line_listener import LineListener
from celeriac.brokers.redis_keys import channel
from celeriac.drivers.redis import Address, Connection, broker_errors

#: After so many seconds of silence the server is asked whether it is there.
SILENCE: Final = 15.0


class RedisListener(LineListener[Connection]):
    """See `celeriac.brokers.contract.Listener`.

    A connection whose other end has gone without a word looks like a quiet one: after some silence it subscribes once
    more, which changes nothing and is answered by a push.
    """

    def __init__(self, address: Address, names: Sequence[str]) -> None:
        self._address = address
        self._names = {channel(address, name).encode(): name for name in names}
        #: When something arrived last; when we asked since then.
        self._heard_at = 0.0
        self._asked_at: float | None = None
        super().__init__(partial(broker_errors, address.place))

    def _wait(self, deadline: float) -> list[tuple[str, bytes]]:
        while not self._is_closed:
            connection = self._connected()
            arrived = connection.gather()
            now = clock.monotonic()
            if arrived:
                self._heard_at, self._asked_at = now, None
                if heard := self._read(connection):
                    return heard
            remaining = deadline - now
            if remaining <= 0 or connection.wait_readable(
                min(remaining, self._check(connection)), self._alarm
            ):
                self._alarm.silence()
                return []
        return []

    def _connect(self) -> Connection:
        connection = Connection(self._address, self._address.timeout)
        try:
            connection.subscribe(*self._names)
        except BaseException:
            connection.close()
            raise
        self._heard_at, self._asked_at = clock.monotonic(), None
        return connection

    def _check(self, connection: Connection) -> float:
        """Ask a server that has been silent. Returns the seconds until the next check. Raises: OSError: no answer."""
        now = clock.monotonic()
        if self._asked_at is not None:
            left = self._asked_at + self._address.timeout - now
            if left <= 0:
                raise TimeoutError(f"no answer within {self._address.timeout:g} s")
            return left
        if now - self._heard_at >= SILENCE:
            connection.send(("SUBSCRIBE", *self._names))
            self._asked_at = now
            return self._address.timeout
        return self._heard_at + SILENCE - now

    def _read(self, connection: Connection) -> list[tuple[str, bytes]]:
        pushes = list(connection.pushes)
        connection.pushes.clear()
        return [(self._names[push[1]], push[2]) for push in pushes if push[0] == b"message"]
