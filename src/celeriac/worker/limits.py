"""Time limits of runs, and the ends of runs that are revoked: how they are kept where the supervisor cannot do it.

In pools that run in the main thread (solo, prefork) the supervisor keeps them from outside: it sends SIGUSR1 at the
soft limit and kills the process at the hard one. In threads and greenlets this module keeps them: the soft limit raises
in the run, the hard limit fails the task and gives the run up. A greenlet or a coroutine that waits ends then. A thread
does not, nor a greenlet that refuses to: where a run goes on that was given up, the process takes nothing more, its
other runs finish, and what the lost one still does ends with it.

A run that is revoked with `terminate` goes the same way, with `Terminated` for the soft limit and the end of its grace
for the hard one; only the soft part is this module's in all pools.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection
from typing import Any, Final

from celeriac import clock
from celeriac.board import ChildBoard
from celeriac.context import Request
from celeriac.events import BUS, TaskOverran
from celeriac.exceptions import SoftTimeLimitExceeded, Terminated
from celeriac.pools.contract import Pool
from celeriac.pools.telling import COROUTINES

#: In threads and greenlets the supervisor is the safety net, where a run lets no other code come round: it kills the
#: process this long (seconds) after the hard limit, and the neighbours run again, uncounted.
NET: Final = 0.4
#: In greenlets it sends SIGUSR1 so long (seconds) after the soft limit, to a run that computes and does not wait.
SOFT_NET: Final = 0.15
#: How long a run that was given up may take to end (seconds) before its process is given up too.
GRACE: Final = 0.25


def of(request: Request) -> tuple[float | None, float | None]:
    """The soft and the hard limit of a run, in seconds: as the caller said, else as the task says."""
    options = request.options
    task = request.task_object
    soft = task.soft_time_limit if options.soft_time_limit is None else options.soft_time_limit
    hard = task.time_limit if options.time_limit is None else options.time_limit
    return soft, hard


class _Watched:
    """One run in a slot, with its limits if it has any. `terminated`: it was revoked, and `hard_at` is its end."""

    __slots__ = ("hard", "hard_at", "request", "soft", "soft_at", "terminated", "told")

    def __init__(self, request: Request, started: float, soft: float | None, hard: float | None) -> None:
        self.request = request
        self.soft = soft
        self.hard = hard
        self.soft_at = started + soft if soft else None
        self.hard_at = started + hard if hard else None
        self.terminated = False
        self.told = False


class ThreadLimits:
    """The runs in threads or greenlets, and their limits.

    Slots write, the steward's thread reads: the lock guards the dict and each end.
    """

    def __init__(
        self,
        pool: Pool,
        board: ChildBoard,
        armed: Callable[[], None],
        overran: Callable[[Request, float], None],
        terminated: Callable[[Request], None],
        on_stray: Callable[[str], None],
    ) -> None:
        """`armed` is called when there is a run to check. `overran(request, limit)` settles one past its hard limit,
        `terminated(request)` one that was revoked; `on_stray(reason)` is called when it still runs a moment later."""
        self._pool = pool
        self._board = board
        self._armed = armed
        self._overran = overran
        self._terminated = terminated
        self._on_stray = on_stray
        #: What is said of the last run that was given up, and when to see what became of it. The steward's own.
        self._given_up: tuple[str, float] | None = None
        self._lock = threading.Lock()
        self._runs: dict[int, _Watched] = {}

    def __bool__(self) -> bool:
        with self._lock:
            is_limited = any(
                run.soft_at is not None or run.hard_at is not None for run in self._runs.values()
            )
        return is_limited or self._given_up is not None

    def begin(
        self, slot: int, request: Request, started: float, soft: float | None, hard: float | None
    ) -> None:
        """A run starts, with limits or without."""
        with self._lock:
            self._runs[slot] = _Watched(request, started, soft, hard)
        if soft or hard:
            self._armed()

    def end(self, slot: int, request: Request) -> bool:
        """The run has ended by itself. False: too late, it was given up and settled."""
        is_ours = False
        try:
            with self._lock:
                watched = self._runs.get(slot)
                is_ours = watched is not None and watched.request is request
                if watched is not None and is_ours:
                    del self._runs[slot]
                    if watched.told:
                        self._pool.interrupt(slot, None)
        except (SoftTimeLimitExceeded, Terminated):
            # It was on its way, and arrives behind user code, too late to be raised there.
            with self._lock:
                watched = self._runs.get(slot)
                if watched is not None and watched.request is request:
                    del self._runs[slot]
                    is_ours = True
        return is_ours

    def terminate(self, keys: Collection[bytes], grace: float) -> None:
        """Raise `Terminated` in the runs of these keys, and give up those that go on after `grace` seconds; where it
        is 0, at once."""
        now = clock.monotonic()
        with self._lock:
            for slot, watched in self._runs.items():
                if watched.request.key not in keys:
                    continue
                watched.soft_at = None
                watched.hard_at = (
                    now + grace if watched.hard_at is None else min(watched.hard_at, now + grace)
                )
                if grace and not watched.terminated:
                    watched.told = self._pool.interrupt(slot, Terminated)
                watched.terminated = True
        self.check(now)
        self._armed()

    def check(self, now: float) -> None:
        """Act on every limit that has passed."""
        overrun: list[tuple[int, _Watched]] = []
        with self._lock:
            for slot, watched in list(self._runs.items()):
                if watched.hard_at is not None and now >= watched.hard_at:
                    if not self._pool.can_abandon(slot):
                        continue
                    del self._runs[slot]
                    # Before the slot is free for another run: then the board's place is that run's.
                    self._board.end(slot)
                    self._pool.abandon(slot)
                    overrun.append((slot, watched))
                elif watched.soft_at is not None and now >= watched.soft_at and not watched.told:
                    watched.told = self._pool.interrupt(slot, SoftTimeLimitExceeded)
                    _announce(watched.request, watched.soft, hard=False)
        for _, watched in overrun:
            why = "after it was revoked" if watched.terminated else "after its hard time limit"
            if watched.terminated:
                self._terminated(watched.request)
            else:
                _announce(watched.request, watched.hard, hard=True)
                self._overran(watched.request, watched.hard or 0.0)
            self._given_up = (f"{watched.request.task_object.name} goes on {why}", now + GRACE)
        if self._given_up is not None and now >= self._given_up[1]:
            if self._pool.strays():
                self._on_stray(self._given_up[0])
            self._given_up = None

    def raise_in(self, slot: int | None) -> None:
        """For the handler of SIGUSR1 in a loop's thread: raise in the run of that slot, where the handler was called,
        if its soft limit has passed and nobody came round to tell it."""
        watched = None if slot is None else self._runs.get(slot)
        if watched is None or watched.told or watched.soft_at is None or clock.monotonic() < watched.soft_at:
            return
        watched.told = True
        _announce(watched.request, watched.soft, hard=False)
        raise SoftTimeLimitExceeded(f"soft time limit of {watched.soft:g} s exceeded")


class SignalLimits:
    """The run in the main thread, for the handler of SIGUSR1: the supervisor sends it at the soft limit, and the
    steward to a run that is revoked."""

    def __init__(self) -> None:
        self.request: Request | None = None
        #: The run that is to hear of its end. Written by the steward, taken back by the handler.
        self._to_end: Request | None = None
        self._soft: float | None = None
        self._soft_at = 0.0

    def begin(self, request: Request, started: float, soft: float | None) -> None:
        """User code of this run comes next."""
        self._soft = soft
        self._soft_at = started + soft if soft else 0.0
        self.request = request

    def end(self) -> None:
        """User code has ended: a signal that comes now is too late."""
        self.request = None

    def terminate(self, keys: Collection[bytes]) -> None:
        """For the steward: raise `Terminated` in the run, if it is of one of these keys."""
        request = self.request
        if request is not None and request.key in keys:
            self._to_end = request
            # To the thread, so that a call into the system that waits returns.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def on_signal(self, number: int, frame: Any) -> None:
        """Raise in the run that is revoked or has passed its soft limit; a late signal finds another run, or none."""
        error = self._due(self.request)
        if error is None:
            return
        coroutine = COROUTINES.of(threading.get_ident())
        if coroutine is not None and not coroutine.in_turn:
            # The handler has come between two turns, into the loop: that is nobody's to raise in.
            coroutine.tell_waiting(error)
            return
        raise error

    def _due(self, request: Request | None) -> BaseException | None:
        soft = self._soft
        if request is None:
            return None
        if request is self._to_end:
            self._to_end = self._soft = None
            return Terminated("revoked")
        if not soft or clock.monotonic() < self._soft_at:
            return None
        self._soft = None
        _announce(request, soft, hard=False)
        return SoftTimeLimitExceeded(f"soft time limit of {soft:g} s exceeded")


def _announce(request: Request, limit: float | None, *, hard: bool) -> None:
    BUS.emit(TaskOverran(str(request.id), request.task_object.name, limit or 0.0, hard))
