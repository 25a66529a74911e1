"""The systems that are compared: one file each, and in it everything that was decided about that system.

A file's docstring says which settings were chosen and why: those that the system's own documentation recommends
for the case, so that every peer shows its best. `requirements/NAME.txt` says what to install, in an environment of
its own: some bring libraries that others would load if they found them. A file has these names, which `sender.py` uses:

    LIBRARY     the distribution whose version is reported
    CANNOT      rows that the system cannot do, each with the reason
    SEND        task name -> the call a user writes to send it (may be a coroutine function)
    send_many   sends many calls of `scrape` at once, if the system has a way; else None
    opened      an asynchronous context manager around sending where SEND has coroutine functions; else None
    worker      number of children -> commands of a worker for many short tasks
    slots       number of slots -> commands of one for tasks that wait
    recycling   number of children -> commands of one that runs every task in a process of its own

and declares four tasks: `scrape` does nothing but count, `add` has a small result that is kept, `nap` sleeps 0.1 s,
`stamp` writes down when it was sent and when it ran.
"""

from __future__ import annotations

import os
import time

from tally import Journal, Tally

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:1/0")
NAP = 0.1

tally = Tally()
journal = Journal()

# The application of the recycling row takes this long to import.
time.sleep(float(os.environ.get("BENCH_IMPORT_SECONDS", "0")))
