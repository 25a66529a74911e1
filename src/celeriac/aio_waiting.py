"""Waiting for results in coroutines: those of one loop that wait at the same time ask the store together.

Each looks at once, then after growing pauses; a look takes along all whose time has come, in one round trip, in a
thread. Loaded by name, when the first coroutine waits: a program without asyncio never imports it.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import copy
import threading
from collections.abc import AsyncGenerator, Mapping
from contextvars import Context
from typing import Any, Final
from weakref import WeakKeyDictionary

from celeriac import clock, states
from celeriac.exceptions import TimeoutError
from celeriac.results.contract import ResultStore
from celeriac.stored import Stored
from celeriac.waiting import Wait, raise_failure, read

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.5
#: So many results that have ended may wait for their reader; a thread looks after so many seconds whether it has one.
_AHEAD: Final = 1000
_GLANCE: Final = 0.5


async def result_of(result: Any, timeout: float | None = None, propagate: bool = True) -> Any:
    """The value of an AsyncResult, as `get` gives it."""
    record: Stored | None = result.final
    if record is None:
        if result.is_dropped():
            return None
        try:
            async with asyncio.timeout(timeout):
                record = await _LOOKS.of(result).wait(result)
        except builtins.TimeoutError:
            raise TimeoutError("The operation timed out.") from None
        result.learn(record)
    if propagate:
        raise_failure(record)
    return record.result


class _Waiter:
    """One result that somebody waits for."""

    __slots__ = ("due", "key", "pause", "result", "told")

    def __init__(self, result: Any, told: asyncio.Future[Stored]) -> None:
        self.result = result
        self.key: bytes = result.key
        self.told = told
        self.pause = _FIRST_PAUSE
        self.due = 0.0


class _Look:
    """Who waits on one loop for results of one store. Its loop's own."""

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self._waiters: set[_Waiter] = set()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def wait(self, result: Any) -> Stored:
        waiter = _Waiter(result, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        self._news.set()
        if self._task is None:
            self._task = asyncio.create_task(self._look(), context=Context())
        try:
            return await waiter.told
        finally:
            self._waiters.discard(waiter)

    async def _look(self) -> None:
        try:
            while self._waiters:
                # Those that begin to wait in this turn come along.
                await asyncio.sleep(0)
                self._news.clear()
                now = clock.monotonic()
                due = [waiter for waiter in self._waiters if waiter.due <= now + _FIRST_PAUSE / 2]
                if due:
                    await self._ask(due)
                if not self._waiters:
                    break
                left = min(waiter.due for waiter in self._waiters) - clock.monotonic()
                try:
                    async with asyncio.timeout(max(0.0, left)):
                        await self._news.wait()
                except builtins.TimeoutError:
                    continue
        finally:
            self._task = None

    async def _ask(self, due: list[_Waiter]) -> None:
        try:
            found: Mapping[bytes, Stored | Exception] = await asyncio.to_thread(self._records, due)
        except Exception as exc:  # noqa: BLE001 - carried to the coroutines that wait, and raised there
            found = {waiter.key: exc for waiter in due}
        now = clock.monotonic()
        for waiter in due:
            record = found.get(waiter.key)
            if record is not None and not waiter.told.done():
                self._waiters.discard(waiter)
                if isinstance(record, Stored):
                    waiter.told.set_result(record)
                else:
                    waiter.told.set_exception(copy.copy(record))
            waiter.due = now + waiter.pause
            waiter.pause = min(_LONGEST_PAUSE, waiter.pause * 1.5)

    def _records(self, due: list[_Waiter]) -> Mapping[bytes, Stored | Exception]:
        """Final ones, and why one cannot be read. In a thread."""
        apps = {waiter.key: waiter.result.app for waiter in due}
        found: dict[bytes, Stored | Exception] = {}
        for key, data in self._store.get(list(apps)).items():
            try:
                record = read(apps[key], data)
            except Exception as exc:  # noqa: BLE001 - as above
                found[key] = exc
            else:
                if record.state in states.READY_STATES:
                    found[key] = record
        return found


class _Looks:
    """By loop and store: who looks."""

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Look]] = WeakKeyDictionary()

    def of(self, result: Any) -> _Look:
        """That of the running loop, for the result's store."""
        store = result.backend
        looks = self._by_loop.setdefault(asyncio.get_running_loop(), {})
        if id(store) not in looks:
            looks[id(store)] = _Look(store)
        return looks[id(store)]


_LOOKS: Final = _Looks()


async def gather(results: Any) -> list[Any]:
    """The values of a ResultSet in order, as its `get` gives them."""
    async for result in as_ended(results):
        raise_failure(result.final)
    values: list[Any] = results.get(disable_sync_subtasks=False)
    return values


async def as_ended(results: Any) -> AsyncGenerator[Any]:
    """The single results of a ResultSet as their runs end; a thread of its own follows the store."""
    pump = _Pump(results, asyncio.get_running_loop())
    pump.start()
    try:
        while (ended := await pump.next()) is not None:
            yield ended
    finally:
        pump.stop()


class _Left(Exception):
    """Nobody reads any more."""


class _Pump(threading.Thread):
    """Follows the results in a thread, and hands those that have ended to a loop."""

    def __init__(self, results: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="celeriac-results", daemon=True)
        self._results = results
        self._loop = loop
        self._ended: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._is_left = False

    async def next(self) -> Any:
        """The next that has ended; None when all have. Raises what the wait raises."""
        found = await self._ended.get()
        self._room.release()
        if isinstance(found, Exception):
            raise found
        return found

    def stop(self) -> None:
        self._is_left = True
        self._room.release()

    def run(self) -> None:
        wait = Wait(_GLANCE, {"on_interval": self._look_up}, may_block=False)
        last: Any = None
        try:
            for ended in self._results.ended(None, wait):
                self._hand_over(ended)
        except _Left:
            return
        except Exception as exc:  # noqa: BLE001 - carried to the coroutine that waits, and raised there
            last = exc
        with contextlib.suppress(_Left):
            self._hand_over(last)

    def _hand_over(self, found: Any) -> None:
        self._room.acquire()
        self._look_up()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads
            self._loop.call_soon_threadsafe(self._ended.put_nowait, found)

    def _look_up(self) -> None:
        if self._is_left or self._loop.is_closed():
            raise _Left
