"""The pool of coroutines: one event loop, in a thread of its own, awaits all runs that are coroutines.

    main thread    opens a run (the board, its limits), and hands its coroutine over
    loop           awaits it, with all the others; runs nothing of ours that blocks
    closing thread settles what has ended, many ends in one round trip

Runs that are no coroutines take a slot too, and one of a bounded number of threads (`threads.ThreadsPool`). While one
of these runs, the pool takes no more than the threads could run: what it takes it can begin.

A run that waits can be told anything, and can be ended, without harm to its neighbours. One that computes in Python
code can be told too; one that is in C code keeps all of them waiting: `watch` notices that.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from contextvars import Context, copy_context
from functools import partial
from queue import SimpleQueue
from typing import Final

from celeriac import plugins
from celeriac.exceptions import RunAbandoned
from celeriac.pools.contract import AwaitedRun, Blocked, Run
from celeriac.pools.ending import die
from celeriac.pools.threads import ThreadsPool
from celeriac.pools.told import Told
from celeriac.pools.watch import Watch

#: So many threads run what is no coroutine.
THREADS: Final = 32
#: How long closing waits for the loop to end what is left on it (seconds).
_LAST_WORDS: Final = 0.5


class _Abandoned(RunAbandoned, asyncio.CancelledError):
    """For libraries that know asyncio, and clean up when a task is cancelled."""


class _Awaited:
    """A run on the loop."""

    __slots__ = ("context", "has_ended", "is_given_up", "number", "run", "told")

    def __init__(self, number: int, run: AwaitedRun, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.run = run
        self.context: Context = copy_context()
        self.told = Told(run.work(), loop)
        #: Whether it has been told to end for good.
        self.is_given_up = False
        self.has_ended = False

    def give_up(self) -> None:
        if not self.is_given_up:
            self.is_given_up = True
            self.told.tell(_Abandoned)


class _Threaded:
    """A run in a thread: its slot in the pool of threads, once it has begun."""

    __slots__ = ("inner",)

    def __init__(self) -> None:
        self.inner = -1


class AsyncioPool:
    """See `celeriac.pools.contract.AwaitingPool`. The condition guards every field; ends of runs notify it."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._condition = threading.Condition()
        self._threads = ThreadsPool(min(slots, THREADS), self._condition)
        self._unused = deque(range(slots))
        self._busy: dict[int, _Awaited | _Threaded] = {}
        self._strays = 0
        #: Tasks of the loop: it holds them weakly itself.
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: SimpleQueue[_Awaited | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None
        self._is_closing = False
        self._blocked: Blocked | None = None
        self._watch: Watch | None = None

    @property
    def slots(self) -> int:
        return self._slots

    def free(self) -> int:
        free = self._slots - len(self._busy)
        threads = self._threads.free()
        return free if threads == self._threads.slots else min(free, threads)

    # -- running ------------------------------------------------------------------------------------------

    def submit(self, run: Run) -> None:
        one = _Threaded()
        with self._condition:
            number = self._unused.popleft()
            self._busy[number] = one
            self._threads.submit(partial(self._run_in_thread, run, number, one))

    def _run_in_thread(self, run: Run, number: int, one: _Threaded, inner: int) -> None:
        one.inner = inner
        try:
            run(number)
        finally:
            self._free(number, one)

    def submit_awaited(self, run: AwaitedRun) -> None:
        loop = self._loop or self._open()
        with self._condition:
            number = self._unused.popleft()
            one = self._busy[number] = _Awaited(number, run, loop)
        one.context.run(run.open, number)
        loop.call_soon_threadsafe(self._begin, one)
        if self._watch is not None:
            self._watch.arm()

    def _begin(self, one: _Awaited) -> None:
        """On the loop."""
        assert self._loop is not None
        if one.is_given_up:
            # Before it began: what comes before it has taken too long.
            one.told.close()
            with self._condition:
                self._strays -= 1
            return
        task = self._loop.create_task(one.told.run(), context=one.context)
        self._tasks.add(task)
        task.add_done_callback(partial(self._end, one))

    def _end(self, one: _Awaited, task: asyncio.Task[None]) -> None:
        """On the loop: the run's code has ended."""
        self._tasks.discard(task)
        fault = RunAbandoned() if task.cancelled() else task.exception()
        if fault is None:
            self._ended.put(one)
        elif isinstance(fault, RunAbandoned):
            with self._condition:
                one.has_ended = True
                if self._busy.get(one.number) is not one:
                    self._strays -= 1
        else:
            die(fault)

    def ending(self) -> int:
        return self._ended.qsize()

    def _close_runs(self) -> None:
        """The closing thread."""
        try:
            while (one := self._ended.get()) is not None:
                one.context.run(one.run.close, one.number)
                self._free(one.number, one)
        except BaseException as fault:  # noqa: BLE001 - the process ends
            die(fault)

    def _free(self, number: int, one: _Awaited | _Threaded) -> None:
        with self._condition:
            if self._busy.get(number) is one:
                del self._busy[number]
                self._unused.append(number)
                self._condition.notify_all()
            elif isinstance(one, _Awaited):
                self._strays -= 1

    def wait_free(self, timeout: float) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: self.free() > 0, max(0.0, timeout))

    def wait_idle(self, timeout: float) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: not self._busy, max(0.0, timeout))

    # -- interrupting -------------------------------------------------------------------------------------

    def interrupt(self, slot: int, error: type[BaseException] | None) -> bool:
        match self._busy.get(slot):
            case _Awaited(told=told):
                if error is None:
                    told.forget()
                else:
                    told.tell(error)
                return True
            case _Threaded(inner=inner):
                return self._threads.interrupt(inner, error)
            case _:
                return False

    def can_abandon(self, slot: int) -> bool:
        one = self._busy.get(slot)
        if isinstance(one, _Awaited) and one.told.in_turn and not one.has_ended:
            # It may be on its way already; or it computes, and ends by this; or it is in C code, and will not hear.
            one.is_given_up = True
            one.told.tell(_Abandoned)
            return False
        return True

    def abandon(self, slot: int) -> bool:
        with self._condition:
            one = self._busy.pop(slot, None)
            if one is None:
                return False
            self._unused.append(slot)
            self._condition.notify_all()
            if isinstance(one, _Threaded):
                return self._threads.abandon(one.inner)
            if not one.has_ended:
                self._strays += 1
                one.give_up()
            return True

    def strays(self) -> int:
        return self._strays + self._threads.strays()

    # -- the loop -----------------------------------------------------------------------------------------

    def watch(self, blocked: Blocked) -> None:
        self._blocked = blocked

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = _new_loop()
        self._loop_thread = threading.Thread(
            target=self._serve, args=(loop,), name="celeriac-loop", daemon=True
        )
        self._loop_thread.start()
        threading.Thread(target=self._close_runs, name="celeriac-closing", daemon=True).start()
        if self._blocked is not None:
            assert self._loop_thread.ident is not None
            self._watch = Watch(
                self._loop_thread.ident,
                lambda: bool(self._busy),
                loop.call_soon_threadsafe,
                self._running,
                self._blocked,
            )
        return loop

    def _running(self) -> int | None:
        for number, one in list(self._busy.items()):
            if isinstance(one, _Awaited) and one.told.in_turn:
                return number
        return None

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            while not self._is_closing:
                try:
                    # A task may stop the loop; what leaves a callback of its own by sys.exit() ends nothing here.
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt):
                    traceback.print_exc()
            if left := asyncio.all_tasks(loop):
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(left, timeout=_LAST_WORDS))
            loop.run_until_complete(loop.shutdown_asyncgens())
        except BaseException as fault:  # noqa: BLE001 - the process ends
            die(fault)

    def close(self) -> None:
        self._threads.close()
        loop, thread = self._loop, self._loop_thread
        if loop is None or thread is None or self._is_closing:
            return
        self._is_closing = True
        self._ended.put(None)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(2 * _LAST_WORDS)


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, else Python's own."""
    try:
        loop: asyncio.AbstractEventLoop = plugins.load("uvloop:new_event_loop")()
    except ImportError:
        return asyncio.new_event_loop()
    return loop
