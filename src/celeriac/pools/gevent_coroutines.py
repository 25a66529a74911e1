"""Coroutines beside greenlets: one thread of the system, with one asyncio loop, runs those of all greenlets at once.

All greenlets share a thread, and asyncio lets a thread run one loop. The greenlet of a coroutine waits for
it as it would for a socket. Loaded when the first coroutine runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

import gevent
from gevent import monkey
from gevent.event import Event

from celeriac.pools.told import Told

_start_thread: Any = monkey.get_original("_thread", "start_new_thread")
_lock: Any = monkey.get_original("_thread", "allocate_lock")


class _Thread:
    """The thread and its loop. `run` belongs to the greenlets of the thread that made it."""

    def __init__(self) -> None:
        is_open = _lock()
        is_open.acquire()
        _start_thread(self._serve, (is_open.release,))
        is_open.acquire()

    def _serve(self, opened: Callable[[], None]) -> None:
        #: The loop holds its tasks weakly itself.
        self._tasks: set[asyncio.Task[None]] = set()
        # Here and not in the thread that asks: the selector waits in the hub of the thread that made it.
        self._loop = asyncio.new_event_loop()
        self._loop.call_soon(opened)
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """Its result, or its exception. What is raised in the waiting greenlet is raised in the coroutine, and the
        greenlet waits until that has ended: a run that goes on keeps its slot."""
        ended = Event()
        bell = gevent.get_hub().loop.async_()
        bell.start(ended.set)
        told = Told(coroutine, self._loop)
        result: list[tuple[bool, Any]] = []

        # These two are called in the loop's thread.
        async def work() -> None:
            try:
                result.append((True, await told.run()))
            except BaseException as exc:  # noqa: BLE001 - carried to the greenlet that waits, and raised there
                result.append((False, exc))
            bell.send()

        def start() -> None:
            task = self._loop.create_task(work(), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(start)
        given_up: BaseException | None = None
        try:
            while not ended.is_set():
                try:
                    ended.wait()
                except Exception as exc:  # noqa: BLE001 - a soft limit, which is the coroutine's to hear
                    told.tell(exc)
                except BaseException as exc:  # noqa: BLE001 - raised again when the coroutine has ended
                    told.tell(exc)
                    given_up = exc
                    if told.in_turn:
                        # It may not hear of it for long: those that come from here on get another loop.
                        _THREADS.forget(self)
        finally:
            bell.stop()
        if given_up is not None:
            raise given_up
        fine, value = result[0]
        if fine:
            return value
        raise value


class _Threads:
    """The thread of this process: a fork has none of its parent's."""

    def __init__(self) -> None:
        self._pid = 0
        self._thread: _Thread | None = None

    def own(self) -> _Thread:
        """Started when first asked for."""
        if self._thread is None or self._pid != os.getpid():
            self._pid, self._thread = os.getpid(), _Thread()
        return self._thread

    def forget(self, thread: _Thread) -> None:
        """Start another when the next coroutine comes."""
        if self._thread is thread:
            self._thread = None


_THREADS: Final = _Threads()


def run(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    """The coroutine's result, or its exception; other greenlets run meanwhile."""
    return _THREADS.own().run(coroutine, context)
