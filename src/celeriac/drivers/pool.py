"""A bounded, fair pool of connections of one process, for all drivers whose connections serve one caller at a time.

Who waits is served in the order of asking: a connection that is given back goes to the first in the line, never to
somebody who has just come. A connection that nobody has needed for a while is closed, so that a burst of
threads leaves nothing behind. It works under gevent, whose locks are those of `threading` once it has patched them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Final, Generic, Protocol, TypeVar

from celeriac import clock
from celeriac.drivers.errors import ServerError

#: A connection that has not been used for so long (seconds) is closed when another is given back.
IDLE_LIMIT: Final = 60.0


class Pooled(Protocol):
    """What a pool must know of a connection. `pid` is the process that opened it."""

    @property
    def pid(self) -> int: ...

    def set_timeout(self, timeout: float) -> None:
        """Seconds that a reply may take from now on."""
        ...

    def is_closed(self) -> bool:
        """Whether the other side has closed it, as far as can be told without asking."""
        ...

    def close(self) -> None: ...


C = TypeVar("C", bound=Pooled)


class _Place(Generic[C]):
    """One in the line. Who serves it gives it a connection, or leaves it None: it may open one."""

    __slots__ = ("connection", "is_served", "turn")

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()
        self.is_served = False
        self.connection: C | None = None

    def serve(self, connection: C | None) -> None:
        self.connection, self.is_served = connection, True
        self.turn.release()


class Pool(Generic[C]):
    """Connections of one process. Safe for threads; a forked child starts with none of its parent's.

    `limit`: the most that are open at once; 0 for no limit. `open_one(timeout)` opens one within so many seconds.
    """

    def __init__(self, open_one: Callable[[float], C], limit: int) -> None:
        self._open_one = open_one
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        #: Guards everything below. The latest used are at the end, each with the time (monotonic) of its last use.
        self._lock = threading.Lock()
        self._idle: list[tuple[C, float]] = []
        self._line: deque[_Place[C]] = deque()
        self._open = 0
        self._pid = os.getpid()

    @contextlib.contextmanager
    def connection(self, timeout: float) -> Generator[C]:
        """A connection for a few calls that take `timeout` seconds in all; dropped if anything fails on the wire."""
        deadline = clock.monotonic() + timeout
        self.drop_closed()
        connection = self.acquire(deadline)
        try:
            connection.set_timeout(deadline - clock.monotonic())
            yield connection
        except ServerError:
            self.release_refused(connection)
            raise
        except BaseException:
            self.discard(connection)
            raise
        self.release(connection)

    def acquire(self, deadline: float) -> C:
        """A connection until `release` or `discard`, by the monotonic `deadline`.

        Raises:
            TimeoutError: all are in use, and others came first.
            Whatever opening one raises.
        """
        if self._pid != os.getpid():
            self._start_over()
        with self._lock:
            place = None if not self._line and self._has_room() else _Place[C]()
            if place is not None:
                self._line.append(place)
            elif self._idle:
                return self._idle.pop()[0]
            else:
                self._open += 1
        if place is not None:
            self._wait(place, deadline)
            if place.connection is not None:
                return place.connection
        try:
            return self._open_one(max(0.001, deadline - clock.monotonic()))
        except BaseException:
            self._gone()
            raise

    def release(self, connection: C) -> None:
        """Give back a connection that may be used again."""
        if connection.pid != self._pid:
            connection.close()
            return
        now = clock.monotonic()
        with self._lock:
            if self._line:
                self._line.popleft().serve(connection)
                return
            self._idle.append((connection, now))
            stale = 0
            while self._idle[stale][1] < now - IDLE_LIMIT:
                stale += 1
            closing, self._idle = self._idle[:stale], self._idle[stale:]
            self._open -= stale
        for old, _ in closing:
            old.close()

    def release_refused(self, connection: C) -> None:
        """Give back a connection over which the server has refused something: it may have been given up for that."""
        if connection.is_closed():
            self.discard(connection)
        else:
            self.release(connection)

    def discard(self, connection: C) -> None:
        """Give back a connection that is of no use any more."""
        connection.close()
        if connection.pid == self._pid:
            self._gone()

    def take_idle(self) -> C | None:
        """An idle connection, which from now on is the caller's alone and counts no more; None where there is none."""
        if self._pid != os.getpid():
            self._start_over()
        self.drop_closed()
        with self._lock:
            if not self._idle or self._line:
                return None
            self._open -= 1
            return self._idle.pop()[0]

    def drop_closed(self) -> None:
        """Forget idle connections that the other side has closed: after its restart the first call must not fail."""
        with self._lock:
            while self._idle and self._idle[-1][0].is_closed():
                self._idle.pop()[0].close()
                self._open -= 1

    def close(self) -> None:
        """Close what is idle. Idempotent; a later `acquire` opens anew."""
        if self._pid != os.getpid():
            self._start_over()
        with self._lock:
            idle, self._idle = self._idle, []
            self._open -= len(idle)
        for connection, _ in idle:
            connection.close()

    def _has_room(self) -> bool:
        return bool(self._idle) or self._limit <= 0 or self._open < self._limit

    def _wait(self, place: _Place[C], deadline: float) -> None:
        """Until the place is served."""
        try:
            if place.turn.acquire(timeout=max(0.0, deadline - clock.monotonic())):
                return
        except BaseException:
            # A time limit, or Ctrl-C: what may have been handed over must not be lost.
            if not self._left(place):
                self._pass_on(place)
            raise
        if self._left(place):
            raise TimeoutError(f"all {self._open} connections of the pool are busy (broker_pool_limit)")

    def _left(self, place: _Place[C]) -> bool:
        """Leave the line. False: too late, the place has been served."""
        with self._lock:
            if not place.is_served:
                self._line.remove(place)
            return not place.is_served

    def _pass_on(self, place: _Place[C]) -> None:
        if place.connection is not None:
            self.release(place.connection)
        else:
            self._gone()

    def _gone(self) -> None:
        """One connection is no more: the first in the line may open another."""
        with self._lock:
            if self._line:
                self._line.popleft().serve(None)
            else:
                self._open -= 1

    def _start_over(self) -> None:
        # The parent's sockets are shared over the fork. They are dropped unused: a byte written here would
        # break the parent's conversation; closing our copies does not.
        inherited = [connection for connection, _ in self._idle]
        self._reset()
        for connection in inherited:
            connection.close()
