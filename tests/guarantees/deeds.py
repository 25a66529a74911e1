"""Tasks that end their own process at a chosen instant, and others that only these tests need."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from workload import FOLDER, OutOfStock, app, note, wait_for_gate


def hang(number: int, frame: FrameType | None) -> None:
    """An application's signal handler that never returns: the main thread is stuck, and no other."""
    threading.Event().wait()


signal.signal(signal.SIGUSR2, hang)


def die_after(calls: int) -> None:
    """End this process by SIGKILL when so many more calls and returns, of Python or C, have happened in its thread.

    What is called after the end of user code is the way to the settlement: every instant of it can be hit.
    """
    left = calls

    def count(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def is_first(task_id: str) -> bool:
    """Whether no run of this message has asked that before, dead or alive."""
    try:
        (FOLDER / f"run-{task_id}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@app.task(name="deeds.dies_behind", bind=True, ignore_result=False)
def dies_behind(self: Any, calls: int) -> int:
    sys.setprofile(None)
    note("start")
    if is_first(self.request.id):
        die_after(calls)
    return calls


@app.task(name="deeds.dies_always_behind", ignore_result=False)
def dies_always_behind(calls: int) -> int:
    sys.setprofile(None)
    note("start")
    die_after(calls)
    return calls


@app.task(name="deeds.dies_behind_once", bind=True, ignore_result=False, acks_late=False)
def dies_behind_once(self: Any, calls: int) -> int:
    sys.setprofile(None)
    note("start")
    die_after(calls)
    return calls


@app.task(name="deeds.dies_behind_retry", bind=True, ignore_result=False)
def dies_behind_retry(self: Any, calls: int) -> int:
    sys.setprofile(None)
    note("start", retries=self.request.retries)
    if self.request.retries:
        return calls
    if is_first(self.request.id):
        die_after(calls)
    raise self.retry(countdown=0)


@app.task(name="deeds.climbs", bind=True, ignore_result=False, max_retries=None)
def climbs(self: Any, steps: int) -> int:
    note("start", retries=self.request.retries)
    if self.request.retries < steps:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(name="deeds.blocks", ignore_result=False)
def blocks(seconds: int) -> str:
    """One call into C that keeps the interpreter's lock: no other thread of the process runs meanwhile."""
    note("start")
    ctypes.PyDLL(None).sleep(seconds)
    note("end")
    return "blocked"


@app.task(name="deeds.ends", bind=True, ignore_result=False, max_retries=None)
def ends(self: Any, how: str, gate: str) -> str:
    """Wait for a gate, then return, fail, or retry once."""
    note("start", hostname=self.request.hostname, retries=self.request.retries)
    if not self.request.retries:
        wait_for_gate(gate)
    if how == "fail":
        raise OutOfStock(str(self.request.hostname), 1)
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    return str(self.request.hostname)


@app.task(name="deeds.nothing")
def nothing() -> None:
    pass


@app.task(name="deeds.notes_time")
def notes_time(due: float) -> None:
    note("late", seconds=time.monotonic() - due)
