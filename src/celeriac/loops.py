"""Running a coroutine to its end from plain code: how `async def` tasks work in pools that are not asyncio's.

Each thread keeps one event loop, so that clients which a task keeps between runs stay usable. Loaded by `plugins`
when the first such task runs: importing asyncio costs 8 MB.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any


class _Loops(threading.local):
    """The event loop of each thread, opened when first used."""

    runner: asyncio.Runner | None = None


_LOOPS = _Loops()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The coroutine's result, or its exception. Inside a running loop it runs in a thread of its own."""
    context = contextvars.copy_context()
    if asyncio._get_running_loop() is not None:  # pyright: ignore[reportPrivateUsage]
        return _run_beside(coroutine, context)
    if _LOOPS.runner is None:
        _LOOPS.runner = asyncio.Runner()
    return _LOOPS.runner.run(coroutine, context=context)


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
