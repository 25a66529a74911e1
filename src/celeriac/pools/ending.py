"""How a pool ends a process that must not go on."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn


def die(fault: BaseException | None) -> NoReturn:
    """End the process at once, with its fault on standard error.

    A run does not raise. If it does all the same, nobody knows what became of its message: the process ends, as by the
    same fault in a main thread, and whoever watches it gives its messages to others.
    """
    if fault is not None:
        traceback.print_exception(fault)
    sys.stderr.flush()
    os._exit(1)
