"""The edge to asyncio: sending and waiting without blocking an event loop.

Loaded by name, when the first coroutine asks for it: a program without asyncio never imports it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from celeriac import states
from celeriac.waiting import raise_failure

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.5


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a blocking function in a thread of the loop's pool."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def result_of(result: Any) -> Any:
    """The value of an AsyncResult, as `get` gives it.

    Looks at the store between pauses, so that a thousand waiting coroutines take no thousand threads.
    """
    result.refuse_if_ignored()
    pause = _FIRST_PAUSE
    while True:
        record = await asyncio.to_thread(result.record)
        if record.state in states.READY_STATES:
            raise_failure(record)
            return record.result
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.5)
