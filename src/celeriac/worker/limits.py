"""Time limits of runs: which apply, and how they are kept where a signal cannot do it.

In pools that run in the main thread (solo, prefork) the supervisor keeps them from outside: it sends SIGUSR1 at the
soft limit and kills the process at the hard one. In threads this module keeps them: the soft limit raises in the
run's thread, the hard limit fails the task, leaves its thread to itself and asks for a new process: this one takes
nothing more, its other threads finish, and what the lost thread still does ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from celeriac import clock
from celeriac.context import Request
from celeriac.events import BUS, TaskOverran
from celeriac.exceptions import SoftTimeLimitExceeded
from celeriac.pools.contract import Pool
from celeriac.wire import ChildBoard

#: In threads the supervisor is the safety net, where a run lets no other thread come round: it kills the process
#: this long (seconds) after the hard limit, and the neighbours run again, uncounted.
NET: Final = 0.4


def of(request: Request) -> tuple[float | None, float | None]:
    """The soft and the hard limit of a run, in seconds: as the caller said, else as the task says."""
    options = request.options
    task = request.task_object
    soft = task.soft_time_limit if options.soft_time_limit is None else options.soft_time_limit
    hard = task.time_limit if options.time_limit is None else options.time_limit
    return soft, hard


class _Watched:
    """One run with a limit, in a slot."""

    __slots__ = ("hard", "hard_at", "request", "soft", "soft_at", "told")

    def __init__(self, request: Request, started: float, soft: float | None, hard: float | None) -> None:
        self.request = request
        self.soft = soft
        self.hard = hard
        self.soft_at = started + soft if soft else None
        self.hard_at = started + hard if hard else None
        self.told = False


class ThreadLimits:
    """Runs with limits in threads. Slots write, the steward's thread reads: the lock guards the dict and each end."""

    def __init__(
        self,
        pool: Pool,
        board: ChildBoard,
        armed: Callable[[], None],
        overran: Callable[[Request, float], None],
    ) -> None:
        """`armed` is called when there is a run to check. `overran(request, limit)` settles one past its hard limit."""
        self._pool = pool
        self._board = board
        self._armed = armed
        self._overran = overran
        self._lock = threading.Lock()
        self._runs: dict[int, _Watched] = {}

    def __bool__(self) -> bool:
        return bool(self._runs)

    def begin(
        self, slot: int, request: Request, started: float, soft: float | None, hard: float | None
    ) -> None:
        """A run with a limit starts."""
        with self._lock:
            self._runs[slot] = _Watched(request, started, soft, hard)
        self._armed()

    def end(self, slot: int, request: Request) -> bool:
        """The run has ended by itself. False: too late, it was settled as overrun."""
        with self._lock:
            watched = self._runs.get(slot)
            if watched is None or watched.request is not request:
                return False
            del self._runs[slot]
            if watched.told:
                self._pool.interrupt(slot, None)
            return True

    def check(self, now: float) -> None:
        """Act on every limit that has passed."""
        overrun: list[tuple[int, _Watched]] = []
        with self._lock:
            for slot, watched in list(self._runs.items()):
                if watched.hard_at is not None and now >= watched.hard_at:
                    del self._runs[slot]
                    # Before the slot is free for another run: then the board's place is that run's.
                    self._board.end(slot)
                    self._pool.abandon(slot)
                    overrun.append((slot, watched))
                elif watched.soft_at is not None and now >= watched.soft_at and not watched.told:
                    watched.told = self._pool.interrupt(slot, SoftTimeLimitExceeded)
                    _announce(watched.request, watched.soft, hard=False)
        for _, watched in overrun:
            _announce(watched.request, watched.hard, hard=True)
            self._overran(watched.request, watched.hard or 0.0)


class SignalLimits:
    """The run in the main thread, for the handler of SIGUSR1, which the supervisor sends at the soft limit."""

    def __init__(self) -> None:
        self.request: Request | None = None
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

    def on_signal(self, number: int, frame: Any) -> None:
        """Raise in the run that has passed its soft limit; a late signal finds another run, or none."""
        request, soft = self.request, self._soft
        if request is None or not soft or clock.monotonic() < self._soft_at:
            return
        self._soft = None
        _announce(request, soft, hard=False)
        raise SoftTimeLimitExceeded(f"soft time limit of {soft:g} s exceeded")


def _announce(request: Request, limit: float | None, *, hard: bool) -> None:
    BUS.emit(TaskOverran(str(request.id), request.task_object.name, limit or 0.0, hard))
