"""`python -m celeriac.supervisor FD ...`: the supervisor as a process of its own, lean from its first instruction.

`celeriac worker` reads its command line and then becomes this program, under the same process id: the command line's
modules are left behind. The options come over the pipe FD; the rest of the arguments are there for people
who read a list of processes.
"""

from __future__ import annotations

import contextlib
import os
import sys

from celeriac import logs, wire
from celeriac.exceptions import ImproperlyConfigured
from celeriac.log_output import hide_passwords
from celeriac.supervisor import main
from celeriac.wire import WorkerOptions


def run(fd: int) -> int:
    """Be the supervisor with the options that can be read there. Returns the exit code."""
    with os.fdopen(fd, "rb") as pipe:
        options = wire.unpack(pipe.read())
    assert isinstance(options, WorkerOptions)
    try:
        logs.start(options)
        return main.run(options)
    except ImproperlyConfigured as exc:
        sys.stderr.write(f"celeriac: {hide_passwords(str(exc))}\n")
        return wire.EXIT_USAGE
    finally:
        if options.pidfile is not None:
            with contextlib.suppress(OSError):
                os.unlink(options.pidfile)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1])))
