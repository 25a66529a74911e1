"""The pool of threads: one for each slot, started when first needed.

A run that overruns is told by an exception raised in its thread (`PyThreadState_SetAsyncExc`), which arrives when
the thread next executes Python code; a coroutine hears of it where it waits. A run that does not listen can be
abandoned: its thread is left to itself, and the slot gets a fresh one.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from queue import SimpleQueue

from celeriac import clock
from celeriac.exceptions import RunAbandoned
from celeriac.pools.contract import Run
from celeriac.pools.ending import die
from celeriac.pools.telling import COROUTINES, raise_in_thread


class _Slot(threading.Thread):
    """A thread that runs what is put into its inbox; None ends it."""

    def __init__(self, pool: ThreadsPool, number: int) -> None:
        super().__init__(name=f"celeriac-slot-{number}", daemon=True)
        self.pool = pool
        self.number = number
        self.inbox: SimpleQueue[Run | None] = SimpleQueue()

    def run(self) -> None:
        try:
            while (run := self.inbox.get()) is not None:
                # A coroutine that was given up ends so.
                with contextlib.suppress(RunAbandoned):
                    run(self.number)
                self.pool.ended(self)
        except BaseException as fault:  # noqa: BLE001 - the process ends
            die(fault)


class ThreadsPool:
    """See `celeriac.pools.contract.Pool`. The condition guards every field; slots notify it when they are idle."""

    def __init__(self, slots: int, condition: threading.Condition | None = None) -> None:
        """`condition`: of a pool of which this one is a part."""
        self._slots = slots
        self._condition = condition or threading.Condition()
        self._idle: list[_Slot] = []
        self._busy: dict[int, _Slot] = {}
        self._unused = deque(range(slots))
        self._strays = 0

    @property
    def slots(self) -> int:
        return self._slots

    def free(self) -> int:
        return self._slots - len(self._busy)

    def submit(self, run: Run) -> None:
        with self._condition:
            if self._idle:
                slot = self._idle.pop()
            else:
                slot = _Slot(self, self._unused.popleft())
                slot.start()
            self._busy[slot.number] = slot
        slot.inbox.put(run)

    def ended(self, slot: _Slot) -> None:
        """For a slot's thread: its run has ended."""
        with self._condition:
            if self._busy.get(slot.number) is slot:
                del self._busy[slot.number]
                self._idle.append(slot)
                self._condition.notify_all()
            else:
                self._strays -= 1
                slot.inbox.put(None)

    def wait_free(self, timeout: float) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: len(self._busy) < self._slots, max(0.0, timeout))

    def wait_idle(self, timeout: float) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: not self._busy, max(0.0, timeout))

    def interrupt(self, slot: int, error: type[BaseException] | None) -> bool:
        with self._condition:
            thread = self._busy.get(slot)
            if thread is None or thread.ident is None:
                return False
            coroutine = COROUTINES.of(thread.ident)
            if coroutine is None:
                return raise_in_thread(thread.ident, error)
            if error is None:
                coroutine.forget()
            else:
                coroutine.tell(error)
            return True

    def can_abandon(self, slot: int) -> bool:
        return True

    def abandon(self, slot: int) -> bool:
        with self._condition:
            thread = self._busy.pop(slot, None)
            if thread is None:
                return False
            self._unused.append(slot)
            self._strays += 1
            self._condition.notify_all()
            if thread.ident is not None and (coroutine := COROUTINES.of(thread.ident)) is not None:
                coroutine.tell(RunAbandoned)
            return True

    def strays(self) -> int:
        return self._strays

    def close(self) -> None:
        with self._condition:
            idle, self._idle = self._idle, []
        deadline = clock.monotonic() + 1.0
        for thread in idle:
            thread.inbox.put(None)
        for thread in idle:
            thread.join(max(0.0, deadline - clock.monotonic()))
