"""Hears notices over a connection of its own, which it makes anew when it is lost."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import Final

from celeriac import clock
from celeriac.drivers.redis import Address, Connection, broker_errors
from celeriac.exceptions import BrokerUnavailable

#: After so many seconds of silence the server is asked whether it is there.
SILENCE: Final = 15.0


class RedisListener:
    """See `celeriac.brokers.contract.Listener`.

    A connection whose other end has gone without a word looks like a quiet one: after some silence it subscribes once
    more, which changes nothing and is answered by a push.
    """

    def __init__(self, address: Address, names: Sequence[str]) -> None:
        self._address = address
        self._names = {f"{address.prefix}control:{name}".encode(): name for name in names}
        self._connection: Connection | None = None
        #: When something arrived last; when we asked since then.
        self._heard_at = 0.0
        self._asked_at: float | None = None
        #: Held by whoever waits, and `_guard` by whoever touches the alarm: `wake` must not wait for the former.
        self._waiting = threading.Lock()
        self._guard = threading.Lock()
        self._alarm_in, self._alarm_out = os.pipe()
        os.set_blocking(self._alarm_in, False)
        os.set_blocking(self._alarm_out, False)
        self._is_closed = False
        #: Why the first connection failed; the first `wait` says so.
        self._failure: BrokerUnavailable | None = None
        try:
            with broker_errors(address.place):
                self._connected()
        except BrokerUnavailable as exc:
            self._failure = exc

    def wait(self, timeout: float) -> list[tuple[str, bytes]]:
        with self._waiting:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            try:
                with broker_errors(self._address.place):
                    return self._wait(clock.monotonic() + timeout)
            except BaseException:
                self._drop_connection()
                raise

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
                min(remaining, self._check(connection)), self._alarm_in
            ):
                with contextlib.suppress(BlockingIOError):
                    os.read(self._alarm_in, 4096)
                return []
        return []

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = Connection(self._address, self._address.timeout)
            try:
                connection.subscribe(*self._names)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._heard_at, self._asked_at = clock.monotonic(), None
        return self._connection

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

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def wake(self) -> None:
        with self._guard:
            if not self._is_closed:
                self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._alarm_out, b"!")

    def close(self) -> None:
        with self._guard:
            if self._is_closed:
                return
            self._is_closed = True
            self._ring()
        with self._waiting:
            self._drop_connection()
            os.close(self._alarm_in)
            os.close(self._alarm_out)
