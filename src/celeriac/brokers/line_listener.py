"""What listeners have in common whose notices come over a connection of their own."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

from celeriac import clock
from celeriac.drivers.alarm import Alarm
from celeriac.exceptions import BrokerRefused, BrokerUnavailable


class Line(Protocol):
    """What must be known of such a connection."""

    def close(self) -> None: ...


L = TypeVar("L", bound=Line)


class LineListener(Generic[L]):
    """See `celeriac.brokers.contract.Listener`. Its connection is made anew when it is lost."""

    def __init__(self, errors: Callable[[], AbstractContextManager[None]]) -> None:
        """`errors`: makes a broker's errors of those of the connection."""
        self._errors = errors
        self._connection: L | None = None
        #: Held by whoever waits, and `_guard` by whoever touches the alarm: `wake` must not wait for the former.
        self._waiting = threading.Lock()
        self._guard = threading.Lock()
        self._alarm = Alarm()
        self._is_closed = False
        #: Why the first connection failed; the first `wait` says so.
        self._failure: BrokerUnavailable | BrokerRefused | None = None
        try:
            with errors():
                self._connected()
        except (BrokerUnavailable, BrokerRefused) as exc:
            self._failure = exc

    @abstractmethod
    def _connect(self) -> L:
        """A connection to which notices come from now on."""

    @abstractmethod
    def _wait(self, deadline: float) -> list[tuple[str, bytes]]:
        """What has come by the monotonic `deadline`; nothing where the alarm rings before."""

    def _connected(self) -> L:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def wait(self, timeout: float) -> list[tuple[str, bytes]]:
        with self._waiting:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            try:
                with self._errors():
                    return self._wait(clock.monotonic() + timeout)
            except BaseException:
                self._drop_connection()
                raise

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def wake(self) -> None:
        with self._guard:
            if not self._is_closed:
                self._alarm.ring()

    def close(self) -> None:
        with self._guard:
            if self._is_closed:
                return
            self._is_closed = True
            self._alarm.ring()
        with self._waiting:
            self._drop_connection()
            self._alarm.close()
