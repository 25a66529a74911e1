"""Sending from coroutines: calls that come at the same time go to the broker in one round trip, off the event loop.

Each application has an outbox. Coroutines put letters into it and wait; a thread takes all that lie there, makes their
messages, hands them to the broker (one batch for each queue, so that a queue that is refused refuses nobody else's
message), and tells each coroutine. The thread ends when nothing has come for a while.

Loaded by name, when the first coroutine sends: a program without asyncio never imports it.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from celeriac import clock
from celeriac.brokers.contract import Outgoing
from celeriac.context import COLLECTED, collecting
from celeriac.exceptions import BrokerUnavailable
from celeriac.producer import CHUNK, Call, Producer
from celeriac.task import Task

#: How long the thread waits for letters before it ends (seconds).
_LINGER: Final = 5.0
#: With less than this left (seconds) of its time, a message is not sent any more.
_LEAST: Final = 0.05
#: After computing for so long (seconds) the thread lets the event loop have the interpreter.
_TURN: Final = 0.0005
_BREATH: Final = 0.00005
_PLAIN: Final[Any] = vars(Task)["apply_async"]
#: So many coroutines are told in one piece.
_TOLD_AT_ONCE: Final = 50


async def send(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    """`task.apply_async(args, kwargs, **options)`, without blocking the event loop."""
    ask = partial(task.apply_async, args, kwargs, **options)
    if COLLECTED.get() is not None:
        return ask()  # nothing is sent here and now
    app = task.app
    if (
        getattr(task.apply_async, "__func__", None) is not _PLAIN
        or "retry" in options or "retry_policy" in options or app.conf.task_always_eager
    ):  # fmt: skip
        # It waits for its message itself, or longer than others.
        return await asyncio.to_thread(ask)
    letter = _Letter(ask)
    _OUTBOXES.of(app).put(letter)
    return await letter.told


class _Letter:
    """One call of a coroutine that waits until it is sent."""

    __slots__ = ("ask", "calls", "context", "error", "loop", "outgoing", "put_at", "result", "told")

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.ask = ask
        self.context: Context = copy_context()
        self.loop = asyncio.get_running_loop()
        self.told: asyncio.Future[Any] = self.loop.create_future()
        self.put_at = clock.monotonic()
        self.calls: list[Call] = []
        self.outgoing: list[Outgoing] = []
        self.result: Any = None
        self.error: BaseException | None = None

    def write(self, app: Any) -> None:
        """Make the message, in the caller's context. In the thread of the outbox."""
        try:
            self.context.run(self._write, app.producer)
        except BaseException as exc:  # noqa: BLE001 - carried to the coroutine that waits, and raised there
            self.error = exc

    def _write(self, producer: Producer) -> None:
        with collecting() as self.calls:
            self.result = self.ask()
        self.calls = [producer.offered(call) for call in self.calls]
        self.outgoing = [producer.written(call) for call in self.calls]

    def tell(self) -> None:
        """On its loop."""
        if self.told.done():
            return
        if self.error is None:
            self.told.set_result(self.result)
        else:
            self.told.set_exception(self.error)


class _Outbox:
    """The letters of one application. Put in by any thread; the condition guards the letters and whether one serves."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._condition = threading.Condition()
        self._letters: deque[_Letter] = deque()
        self._is_served = False

    def put(self, letter: _Letter) -> None:
        with self._condition:
            self._letters.append(letter)
            if self._is_served:
                self._condition.notify()
                return
            threading.Thread(target=self._serve, name="celeriac-outbox", daemon=True).start()
            self._is_served = True

    def _serve(self) -> None:
        while letters := self._take():
            turn_ends = clock.monotonic() + _TURN
            for letter in letters:
                if not letter.told.cancelled():
                    letter.write(self._app)
                turn_ends = _breathe(turn_ends)
            self._send(letters)
            self._tell(letters)

    def _take(self) -> list[_Letter]:
        """What lies there. None of it for a while: the thread ends, and the next letter starts another."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._letters, _LINGER):
                self._is_served = False
                return []
            return [self._letters.popleft() for _ in range(min(CHUNK, len(self._letters)))]

    def _send(self, letters: Sequence[_Letter]) -> None:
        by_queues: dict[tuple[str, ...], list[_Letter]] = defaultdict(list)
        for letter in letters:
            if letter.outgoing and letter.error is None:
                by_queues[tuple({one.queue: None for one in letter.outgoing})].append(letter)
        for together in by_queues.values():
            try:
                producer: Producer = self._app.producer
                left = producer.timeout - (clock.monotonic() - together[0].put_at)
                if left < _LEAST:
                    raise BrokerUnavailable(f"not stored within {producer.timeout:g} s")
                producer.send_stored([one for letter in together for one in letter.outgoing], left)
            except BaseException as exc:  # noqa: BLE001 - as above
                for letter in together:
                    # An exception that several tasks raise would collect all their tracebacks.
                    letter.error = copy.copy(exc)
                    letter.error.__cause__ = exc
            else:
                producer.announce([call for letter in together for call in letter.calls])

    def _tell(self, letters: Sequence[_Letter]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Letter]] = defaultdict(list)
        for letter in letters:
            by_loop[letter.loop].append(letter)
        for loop, waiting in by_loop.items():
            for start in range(0, len(waiting), _TOLD_AT_ONCE):
                if loop.is_closed():
                    break
                try:
                    loop.call_soon_threadsafe(_tell_all, waiting[start : start + _TOLD_AT_ONCE])
                except RuntimeError:
                    break  # closed just now: nobody waits there any more
                clock.sleep(_BREATH)


def _tell_all(letters: Sequence[_Letter]) -> None:
    for letter in letters:
        letter.tell()


def _breathe(turn_ends: float) -> float:
    now = clock.monotonic()
    if now < turn_ends:
        return turn_ends
    clock.sleep(_BREATH)
    return clock.monotonic() + _TURN


class _Outboxes:
    """The outboxes of this process. A fork has none of its parent's: nobody there serves them."""

    def __init__(self) -> None:
        self._empty()
        os.register_at_fork(after_in_child=self._empty)

    def _empty(self) -> None:
        self._lock = threading.Lock()
        self._by_app: WeakKeyDictionary[Any, _Outbox] = WeakKeyDictionary()

    def of(self, app: Any) -> _Outbox:
        """That application's."""
        with self._lock:
            outbox = self._by_app.get(app)
            if outbox is None:
                outbox = self._by_app[app] = _Outbox(app)
            return outbox


_OUTBOXES: Final = _Outboxes()
