"""Running a coroutine to its end from plain code: how `async def` tasks work in pools that are not asyncio's.

Each thread keeps one event loop, so that clients which a task keeps between runs stay usable; greenlets share one.
A time limit that is raised in the thread is raised in the coroutine (`pools.telling`). Loaded by `plugins` when the
first such task runs: importing asyncio costs 8 MB.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any

from celeriac import plugins
from celeriac.pools.telling import COROUTINES
from celeriac.pools.told import Told


class _Loops(threading.local):
    """The event loop of each thread, opened when first used."""

    runner: asyncio.Runner | None = None
    pid = 0

    def own(self) -> asyncio.Runner:
        """This thread's; a fork gets one of its own."""
        if self.runner is None or self.pid != os.getpid():
            self.runner, self.pid = asyncio.Runner(), os.getpid()
        return self.runner


_LOOPS = _Loops()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The coroutine's result, or its exception. Inside a running loop it runs in a thread of its own."""
    context = contextvars.copy_context()
    if _is_patched():
        return plugins.load("celeriac.pools.gevent_coroutines:run")(coroutine, context)
    if asyncio._get_running_loop() is not None:  # pyright: ignore[reportPrivateUsage]
        return _run_beside(coroutine, context)
    runner = _LOOPS.own()
    told = Told(coroutine, runner.get_loop())
    thread = threading.get_ident()
    COROUTINES.begin(thread, told)
    try:
        return runner.run(told.run(), context=context)
    finally:
        COROUTINES.end(thread)


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _run_beside(coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> Any:
    ended: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            with asyncio.Runner() as runner:
                ended.append((True, runner.run(coroutine, context=context)))
        except BaseException as exc:  # noqa: BLE001 - carried to the thread that waits, and raised there
            ended.append((False, exc))

    thread = threading.Thread(target=work, name="celeriac-coroutine")
    thread.start()
    thread.join()
    fine, value = ended[0]
    if fine:
        return value
    raise value
