"""The template process as its supervisor holds it: started, heard, ended.

The other side is `celeriac.worker.template`, which this package never imports.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from celeriac import wire
from celeriac.wire import Channel, WorkerOptions

#: What a template is started with; its channel's descriptor is appended.
COMMAND: Final = (sys.executable, "-m", "celeriac.worker")


class Template:
    """One template process, from its start until it has been reaped."""

    def __init__(self, command: Sequence[str], options: WorkerOptions, generation: int, now: float) -> None:
        self.generation = generation
        self.started_at = now
        self.ready: wire.Ready | None = None
        #: How long it took to import the application (seconds).
        self.boot_time = 0.0
        self.failed: wire.ImportFailed | None = None
        #: Since when it is to end by itself (monotonic); None: it is not.
        self.leaving_at: float | None = None
        #: Whether it has been told that its children are up.
        self.is_told = False
        self.status: int | None = None
        ours, theirs = wire.socket_pair()
        with theirs:
            theirs.set_inheritable(True)
            self.pid = os.posix_spawn(command[0], [*command, str(theirs.fileno())], os.environ, setsigmask=[])
        self.channel = Channel(ours, blocking=False)
        self.channel.send(options)

    def become_ready(self, ready: wire.Ready, now: float) -> None:
        """It has imported the application."""
        self.ready = ready
        self.boot_time = now - self.started_at

    @property
    def is_alive(self) -> bool:
        """Whether it can still be asked for something."""
        return self.status is None and self.channel.fileno() >= 0

    def leave(self, now: float) -> None:
        """It is of no more use: let it end, and say so by the end of its channel."""
        self.leaving_at = now
        self.channel.finish()

    def close(self) -> None:
        """Let it end: it sees its channel's end. Idempotent."""
        self.channel.close()

    def kill(self) -> None:
        """End it now."""
        self.close()
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
