"""The pulse of a RabbitMQ consumer: a thread that keeps its connection while its process does other things."""

from __future__ import annotations

import threading
from typing import Final, Protocol

from celeriac.drivers.alarm import Alarm

#: Seconds of rest where others use the connection: what comes is for them.
_REST: Final = 0.05


class Beating(Protocol):
    """What has a pulse."""

    def fileno(self) -> int:
        """What may have something to read; negative where nothing has."""
        ...

    def rest(self) -> float:
        """Seconds after which a sign of life is due."""
        ...

    def pulse(self) -> None:
        """Read it, and give a sign of life if it is time to. Does not wait."""
        ...


class Pulse:
    """Runs from `start` to `stop`. Both may be called twice."""

    def __init__(self, beating: Beating) -> None:
        self._beating = beating
        self._alarm = Alarm()
        self._thread: threading.Thread | None = None
        self._is_over = False

    def start(self) -> None:
        """There is something new to read from."""
        self._alarm.ring()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="celeriac-pulse", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._is_over:
            self._alarm.wait(self._beating.rest(), [self._beating] if self._beating.fileno() >= 0 else [])
            if self._is_over:
                return
            self._alarm.silence()
            self._beating.pulse()
            self._alarm.wait(_REST, [])

    def stop(self) -> None:
        """Waits for its end."""
        if self._is_over:
            return
        self._is_over = True
        self._alarm.ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._alarm.close()
