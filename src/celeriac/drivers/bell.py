"""Hearing from the kernel that some process has committed to an SQLite file, instead of asking all the time.

SQLite tells no other process of a commit. So who has committed opens the file's log once more and closes it, which
costs microseconds and writes nothing, and who waits has an inotify watch on that: nothing lies beside the file, and
nothing is left behind. It is the log (FILE-wal) because SQLite keeps no lock in it: to close any descriptor of the
file itself would give up this process's locks. Where bells cannot be had (another system than Linux, no watch left
for this user, a file system that tells nothing), a bell says that it does not hear.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable
from typing import Final

try:
    import ctypes
except ImportError:  # a Python that was built without libffi
    ctypes = None  # type: ignore[assignment]

#: From <sys/inotify.h>: who had it open for reading has closed it; it lost a link, was renamed, was deleted.
_IN_CLOSE_NOWRITE: Final = 0x010
_IN_ATTRIB: Final = 0x004
_IN_MOVE_SELF: Final = 0x800
_IN_DELETE_SELF: Final = 0x400
#: One event without a name has 16 bytes, and the kernel merges equal ones.
_EVENTS_SIZE: Final = 4096


class Bell:
    """What rings from now on is heard by one `wait`, of one thread at a time. A forked child has to `close` it."""

    def __init__(self, path: str, ring: Callable[[], None]) -> None:
        """`ring`: what rings the bell of the file `path`. Who does not hear that will hear nobody."""
        self._watch = _watch(path)
        if self.hears:
            ring()
            # The kernel queues an event before the call that causes it returns.
            if not self._heard():
                self.close()

    @property
    def hears(self) -> bool:
        return self._watch >= 0

    def wait(self, seconds: float) -> None:
        """Return when it rings, or has rung since the last call; after so many seconds at the latest."""
        # Looked up at this moment: the poll of a process that gevent has patched does not block its hub.
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        if poll.poll(seconds * 1000):
            self._heard()

    def close(self) -> None:
        watch, self._watch = self._watch, -1
        if watch >= 0:
            os.close(watch)

    #: Who waits keeps it open; the last one who lets go of it closes it.
    __del__ = close

    def _heard(self) -> bool:
        """Whether something has come since the last call."""
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._watch, _EVENTS_SIZE))
        return False


def _watch(path: str) -> int:
    """A descriptor that can be read when the file's bell was rung or it is gone; -1: there is none to be had."""
    if sys.platform != "linux" or ctypes is None:
        return -1
    libc = ctypes.CDLL(None)
    watch: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watch >= 0:
        gone = _IN_ATTRIB | _IN_MOVE_SELF | _IN_DELETE_SELF
        for name, wanted in ((path, gone), (f"{path}-wal", gone | _IN_CLOSE_NOWRITE)):
            if libc.inotify_add_watch(watch, os.fsencode(name), ctypes.c_uint32(wanted)) < 0:
                os.close(watch)
                return -1
    return watch
