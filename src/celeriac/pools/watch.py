"""A thread of the system that asks a loop whether it comes round, while there are runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

from celeriac import clock, native
from celeriac.pools.contract import Blocked

#: A turn that takes longer is told of (seconds), and how often it is looked while there are runs.
LONGEST_TURN: Final = 1.0
_LOOK: Final = 0.25
_STANDARD: Final = os.path.dirname(os.__file__)


class Watch:
    """See the module. `arm` is for the thread that submits runs; the rest is the watch's own."""

    def __init__(
        self,
        thread: int,
        is_busy: Callable[[], bool],
        ask: Callable[[Callable[[], None]], object],
        running: Callable[[], int | None],
        blocked: Blocked,
    ) -> None:
        """`thread`: the loop's. `ask(answer)` has the loop call `answer` when it comes round. `running` tells the slot
        whose turn it is; both are called from another thread."""
        self._thread = thread
        self._is_busy = is_busy
        self._ask = ask
        self._running = running
        self._blocked = blocked
        self._bell = native.allocate_lock()
        self._bell.acquire()
        self._answer = native.allocate_lock()
        self._answer.acquire()
        #: Whether the bell has been rung and not been heard yet. Set by `arm`, taken back by the watch.
        self._armed = False
        native.start_new_thread(self._serve, ())

    def arm(self) -> None:
        """There is a run."""
        if not self._armed:
            self._armed = True
            self._bell.release()

    def _serve(self) -> None:
        while True:
            self._bell.acquire()
            # Before it looks: a run that begins from here on rings again.
            self._armed = False
            while self._is_busy():
                self._look()
                native.sleep(_LOOK)

    def _look(self) -> None:
        asked_at = clock.monotonic()
        self._ask(self._answer.release)
        while not self._answer.acquire(timeout=LONGEST_TURN):
            waited = clock.monotonic() - asked_at
            if waited > 2 * LONGEST_TURN:
                # This thread was held up as well: the process had no turn.
                asked_at += waited
                continue
            self._blocked(self._running(), waited, self._where())
            self._answer.acquire()
            return

    def _where(self) -> str:
        """The innermost line outside of the standard library."""
        here: FrameType | None = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage]
        frame = here
        while frame is not None and _is_standard(frame.f_code.co_filename):
            frame = frame.f_back
        frame = frame or here
        return (
            "?"
            if frame is None
            else f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
        )


def _is_standard(path: str) -> bool:
    return path.startswith("<") or (path.startswith(_STANDARD) and "site-packages" not in path)
