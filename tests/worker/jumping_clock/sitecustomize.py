"""For processes whose wall clock a test sets: Python imports this first, from a folder on PYTHONPATH.

The file that CLOCK_OFFSET names holds the seconds by which the clock is wrong.
"""

import os
import time

_true_time = time.time


def _wrong_time() -> float:
    try:
        with open(os.environ["CLOCK_OFFSET"]) as file:
            return _true_time() + float(file.read() or 0)
    except (FileNotFoundError, ValueError):
        return _true_time()


if "CLOCK_OFFSET" in os.environ:
    time.time = _wrong_time
