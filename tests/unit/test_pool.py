"""The pool of connections: bounded, fair, and whole after a fork or an interruption."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from celeriac import clock
from celeriac.drivers import pool
from celeriac.drivers.pool import Pool
from celeriac.testing.stand import until


class Pipe:
    """A real connection, to ourselves."""

    opened = 0

    def __init__(self, timeout: float) -> None:
        Pipe.opened += 1
        self.pid = os.getpid()
        self.out, self.into = os.pipe()
        self.is_open = True

    def is_closed(self) -> bool:
        return not self.is_open

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            os.close(self.out)
            os.close(self.into)


@pytest.fixture
def make_pool() -> Callable[[int], Pool[Pipe]]:
    Pipe.opened = 0
    return lambda limit: Pool(Pipe, limit)


def soon() -> float:
    return clock.monotonic() + 20.0


def waiting(found: Pool[Pipe], count: int) -> None:
    """Wait until so many stand in the line."""
    until(lambda: len(found._line) == count, f"{count} wait")


def test_one_connection_serves_one_after_another(make_pool: Callable[[int], Pool[Pipe]]) -> None:
    found = make_pool(10)
    for _ in range(5):
        found.release(found.acquire(soon()))
    assert Pipe.opened == 1
    found.close()


def test_no_more_are_open_than_the_limit(make_pool: Callable[[int], Pool[Pipe]]) -> None:
    found = make_pool(2)
    first, second = found.acquire(soon()), found.acquire(soon())
    began = clock.monotonic()
    with pytest.raises(TimeoutError, match="all 2 connections of the pool are busy"):
        found.acquire(clock.monotonic() + 0.1)
    assert clock.monotonic() - began < 5.0
    found.release(first)
    assert found.acquire(soon()) is first
    found.discard(first)
    assert found.acquire(soon()) is not second
    assert Pipe.opened == 3


def test_without_a_limit_nobody_waits(make_pool: Callable[[int], Pool[Pipe]]) -> None:
    found = make_pool(0)
    for connection in [found.acquire(soon()) for _ in range(50)]:
        found.release(connection)
    assert Pipe.opened == 50
    found.close()


def test_who_came_first_is_served_first(make_pool: Callable[[int], Pool[Pipe]]) -> None:
    found = make_pool(1)
    connection = found.acquire(soon())
    served: list[int] = []

    def ask(number: int) -> None:
        mine = found.acquire(soon())
        served.append(number)
        found.release(mine)

    with ThreadPoolExecutor(10) as threads:
        asking: list[Future[None]] = []
        for number in range(10):
            asking.append(threads.submit(ask, number))
            waiting(found, number + 1)
        # Somebody who gives back and asks again at once goes behind those who wait.
        found.release(connection)
        ask(10)
        for future in asking:
            future.result(20)
    assert served == list(range(11))


def test_a_lost_connection_makes_room_for_the_first_in_the_line(
    make_pool: Callable[[int], Pool[Pipe]],
) -> None:
    found = make_pool(1)
    connection = found.acquire(soon())
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(found.acquire, soon())
        waiting(found, 1)
        found.discard(connection)
        assert other.result(20).is_open
    assert Pipe.opened == 2


def test_one_that_cannot_be_opened_leaves_its_room_to_others() -> None:
    def refuse(timeout: float) -> Pipe:
        raise ConnectionRefusedError("nobody is there")

    found = Pool(refuse, 1)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            found.acquire(soon())


def test_who_gave_up_waiting_gets_nothing(make_pool: Callable[[int], Pool[Pipe]]) -> None:
    found = make_pool(1)
    connection = found.acquire(soon())
    with pytest.raises(TimeoutError):
        found.acquire(clock.monotonic() + 0.05)
    found.release(connection)
    assert found.acquire(soon()) is connection


def test_a_burst_leaves_no_connections_behind(
    make_pool: Callable[[int], Pool[Pipe]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_pool(0)
    burst = [found.acquire(soon()) for _ in range(20)]
    for connection in burst:
        found.release(connection)
    monkeypatch.setattr(pool, "IDLE_LIMIT", 0.0)
    last = found.acquire(soon())
    threading.Event().wait(0.01)
    found.release(last)
    assert [connection.is_open for connection in burst].count(True) <= 1
    found.close()


def test_what_the_other_side_has_closed_is_forgotten(make_pool: Callable[[int], Pool[Pipe]]) -> None:
    found = make_pool(1)
    connection = found.acquire(soon())
    found.release(connection)
    connection.close()
    found.drop_closed()
    assert found.acquire(soon()).is_open


def test_a_fork_starts_with_none_of_its_parents(make_pool: Callable[[int], Pool[Pipe]]) -> None:
    found = make_pool(2)
    mine, idle = found.acquire(soon()), found.acquire(soon())
    found.release(idle)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        own = found.acquire(clock.monotonic() + 5.0)
        other = found.acquire(clock.monotonic() + 5.0)
        found.release(mine)
        is_good = (
            own.pid == other.pid == os.getpid() and len({own, other, mine, idle}) == 4 and not idle.is_open
        )
        os.write(tell, b"1" if is_good else b"0")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(told, 1) == b"1"
    assert mine.is_open
    assert found.acquire(soon()) is idle
    assert idle.is_open
