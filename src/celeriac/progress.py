"""Progress: what a long run says of itself, stored at most once a second, in a thread that all runs share.

What a run says within that second replaces what it said before, and is stored when the second is over, whatever
the run does then. Once the run has ended nothing of this is stored any more: its end is. Loaded by name, when
the first task tells its progress.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any, Final

from celeriac import clock
from celeriac.context import Request
from celeriac.events import BUS, TaskStateNotStored
from celeriac.exceptions import CeleriacError
from celeriac.stored import Stored

STATE: Final = "PROGRESS"
#: Seconds between two records of one run.
PAUSE: Final = 1.0
#: Seconds without work after which the thread ends.
_IDLE: Final = 5.0


class Progress:
    """What one run has said of itself."""

    def __init__(self, task: Any, request: Request) -> None:
        self._task = task
        self._request = request
        #: Held while a record is stored.
        self._storing = threading.Lock()
        self._is_over = False
        #: What is to be stored, and from when on (monotonic). Guarded by the clerk's condition.
        self.latest: Any = None
        self.due = 0.0

    def tell(self, current: Any, total: Any, message: Any) -> None:
        """Say how far the run is. Does not wait for the store."""
        for value in (current, total):
            if not isinstance(value, int | float | None) or isinstance(value, bool):
                raise TypeError(f"progress is told in numbers, not {value!r}")
        if not isinstance(message, str | None):
            raise TypeError(f"the message of a progress is text, not {message!r}")
        if not self._is_over:
            _clerk(os.getpid()).take(self, {"current": current, "total": total, "message": message})

    def store(self, meta: Any) -> None:
        """In the clerk's thread. A store that fails costs this record; the run goes on."""
        request, backend = self._request, self._task.app.backend
        with self._storing:
            if self._is_over:
                return
            try:
                request.note(backend.written(str(request.id), Stored(STATE, meta)), backend)
            except CeleriacError as exc:
                BUS.emit(TaskStateNotStored(str(request.id), self._task.name, STATE, str(exc)))

    def close(self) -> None:
        """The run has ended: nothing is stored from now on.

        Waits for a record that is being stored, unless the broker keeps the results: it refuses what comes late.
        """
        self._is_over = True
        holder = self._request.holder
        if holder is None or holder.place != self._task.app.backend.place:
            with self._storing:
                return


class _Clerk:
    """The thread that stores progress, for as long as there is some."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: set[Progress] = set()
        self._is_running = False

    def take(self, progress: Progress, meta: Any) -> None:
        with self._changed:
            progress.latest = meta
            if progress in self._waiting:
                return
            self._waiting.add(progress)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="celeriac-progress", daemon=True).start()
            else:
                self._changed.notify()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            progress, meta = found
            progress.store(meta)

    def _next(self) -> tuple[Progress, Any] | None:
        """Wait for the next that is due; None after a while without any."""
        with self._changed:
            while True:
                first = min(self._waiting, key=lambda one: one.due, default=None)
                now = clock.monotonic()
                if first is not None and first.due <= now:
                    self._waiting.discard(first)
                    first.due = now + PAUSE
                    return first, first.latest
                was_told = self._changed.wait(_IDLE if first is None else first.due - now)
                if first is None and not was_told and not self._waiting:
                    self._is_running = False
                    return None


@cache
def _clerk(pid: int) -> _Clerk:
    """That of this process: a forked child begins with one of its own."""
    return _Clerk()
