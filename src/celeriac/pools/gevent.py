"""The pool of greenlets: one for each slot, made when first needed; all take turns in the child's main thread.

The template has patched the standard library before it imported the application (`PoolSpec.patch`), so that code which
waits for a socket, a lock or the time lets others run. A run that waits can be told anything, and can be ended,
without harm to its neighbours. One that does not wait (it computes, or is in C code) keeps all of them
waiting: a thread of the system notices that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent import GreenletExit
from gevent.event import Event

from celeriac import clock, native, plugins
from celeriac.exceptions import RunAbandoned
from celeriac.pools.contract import Blocked, Run
from celeriac.pools.ending import die
from celeriac.pools.watch import Watch

# What gevent imports at its first use: here in the template, for the children to share.
for _late in ("gevent.resolver.thread", "gevent.threadpool", "pprint"):
    plugins.load(_late)

#: Waiting longer in one piece is left out: not every loop can count so far.
_LONGEST_WAIT: Final = 3600.0


class _Abandoned(RunAbandoned, GreenletExit):
    """For libraries that know gevent, and clean up when a greenlet is killed."""


class _Slot(gevent.Greenlet):  # type: ignore[type-arg]  # pyright: ignore[reportMissingTypeArgument]
    """A greenlet that runs what is put into its inbox."""

    def __init__(self, pool: GeventPool, number: int) -> None:
        super().__init__()
        self.pool = pool
        self.number = number
        self.inbox: Run | None = None
        #: What was raised here and has not arrived yet.
        self.thrown: Any = None
        self.is_waiting = False
        self.has_begun = False

    def _run(self) -> None:
        self.has_begun = True
        hub = gevent.get_hub()
        try:
            while True:
                run, self.inbox = self.inbox, None
                if run is not None:
                    run(self.number)
                    if not self.pool.ended(self):
                        return
                if self.inbox is None:
                    self.is_waiting = True
                    hub.switch()
                    self.is_waiting = False
        except GreenletExit:
            if not self.is_waiting:
                self.pool.ended(self)
        except BaseException as fault:  # noqa: BLE001 - the process ends
            die(fault)


class GeventPool:
    """See `celeriac.pools.contract.LoopPool`. Everything but the watch belongs to the main thread's greenlets."""

    def __init__(self, slots: int) -> None:
        # The application's import may have used the loop, in the template: this process needs one of its own.
        gevent.reinit()
        self._slots = slots
        self._loop = gevent.get_hub().loop
        self._changed = Event()
        self._idle: list[_Slot] = []
        self._busy: dict[int, _Slot] = {}
        self._unused = deque(range(slots))
        self._strays = 0
        self._watch: Watch | None = None

    @property
    def slots(self) -> int:
        return self._slots

    def free(self) -> int:
        return self._slots - len(self._busy)

    def submit(self, run: Run) -> None:
        slot = self._idle.pop() if self._idle else _Slot(self, self._unused.popleft())
        self._busy[slot.number] = slot
        slot.inbox = run
        if self._watch is not None:
            self._watch.arm()
        # At once, until it waits: a run that does not has ended when the main greenlet comes back from the loop.
        self._loop.run_callback(gevent.getcurrent().switch)
        slot.switch()

    def ended(self, slot: _Slot) -> bool:
        """For a slot: its run has ended. False: it was given up meanwhile, and the slot is another's."""
        if slot.thrown is not None:
            slot.thrown.stop()
            slot.thrown = None
        if self._busy.get(slot.number) is not slot:
            self._strays -= 1
            return False
        del self._busy[slot.number]
        self._idle.append(slot)
        self._changed.set()
        return True

    def wait_free(self, timeout: float) -> bool:
        until = clock.monotonic() + timeout
        while len(self._busy) >= self._slots:
            if not self._wait(until):
                return False
        return True

    def wait_idle(self, timeout: float) -> bool:
        until = clock.monotonic() + timeout
        while self._busy:
            if not self._wait(until):
                return False
        return True

    def _wait(self, until: float) -> bool:
        remaining = until - clock.monotonic()
        if remaining <= 0:
            return False
        self._changed.clear()
        self._changed.wait(min(remaining, _LONGEST_WAIT))
        return True

    def interrupt(self, slot: int, error: type[BaseException] | None) -> bool:
        greenlet = self._busy.get(slot)
        if greenlet is None:
            return False
        if greenlet.thrown is not None:
            greenlet.thrown.stop()
            greenlet.thrown = None
        if error is not None:
            greenlet.thrown = self._loop.run_callback(greenlet.throw, error)
        return True

    def can_abandon(self, slot: int) -> bool:
        return True

    def abandon(self, slot: int) -> bool:
        greenlet = self._busy.pop(slot, None)
        if greenlet is None:
            return False
        if greenlet.thrown is not None:
            greenlet.thrown.stop()
        self._strays += 1
        self._unused.append(slot)
        self._changed.set()
        greenlet.thrown = self._loop.run_callback(greenlet.throw, _Abandoned)
        return True

    def strays(self) -> int:
        return self._strays

    def current(self) -> int | None:
        here = gevent.getcurrent()
        return here.number if isinstance(here, _Slot) and self._busy.get(here.number) is here else None

    def watch(self, blocked: Blocked) -> None:
        answers: deque[Callable[[], None]] = deque()
        question = self._loop.async_(ref=False)
        question.start(lambda: answers and answers.popleft()())

        def ask(answer: Callable[[], None]) -> None:
            answers.append(answer)
            question.send()

        self._watch = Watch(native.get_ident(), lambda: bool(self._busy), ask, self._running, blocked)

    def _running(self) -> int | None:
        """For the watch: the slot whose turn it is. Only a greenlet that runs has no frame to come back to."""
        for number, slot in list(self._busy.items()):
            if slot.has_begun and slot.gr_frame is None:
                return number
        return None

    def close(self) -> None:
        idle, self._idle = self._idle, []
        for slot in idle:
            slot.kill(block=False)
