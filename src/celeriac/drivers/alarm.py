"""A way to wake a thread that waits for descriptors."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable
from typing import Protocol


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Alarm:
    """A pipe of which one thread waits for the end to read (`fileno`), beside what else it waits for.

    Any thread may `ring` until it is closed; a ring stays until it is silenced, and many are one.
    """

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)

    def fileno(self) -> int:
        return self._out

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._in, b"!")

    def silence(self) -> None:
        """Forget what has rung. Nothing where nothing has."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, 4096)

    def wait(self, timeout: float, others: Iterable[HasFileno]) -> bool:
        """Wait at most `timeout` seconds until it rings, or the others have something to read. True: it rings."""
        poller = select.poll()
        poller.register(self._out, select.POLLIN)
        for other in others:
            if other.fileno() < 0:
                return False  # closed by another thread
            poller.register(other, select.POLLIN)
        return any(fd == self._out for fd, _ in poller.poll(max(0.0, timeout) * 1000))

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
