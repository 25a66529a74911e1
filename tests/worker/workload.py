"""An application whose tasks the tests of this folder run, in a worker that is a process of its own.

The environment says which broker, which settings, and where tasks note what they do. `make_app` makes the same
application in the process that sends.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from celeriac import Broadcast, Celeriac, Task, context
from celeriac.exceptions import Ignore, Reject, SoftTimeLimitExceeded, Terminated

#: The folder in which tasks write notes and look for gates; set in a worker only.
FOLDER = Path(os.environ.get("WORKLOAD_FOLDER", "."))

_declared: list[tuple[Callable[..., Any], dict[str, Any]]] = []


def task(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a task for every application that `make_app` makes. Return values are kept unless told otherwise."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        _declared.append((function, {"ignore_result": False, **options}))
        return function

    return declare


def note(what: str, **more: Any) -> None:
    """Write down, in one line, that the task of now has got this far."""
    request = context.current_task().request
    line = {"id": request.id, "what": what, "pid": os.getpid(), "at": time.monotonic(), **more}
    with (FOLDER / "notes").open("a") as notes:
        notes.write(json.dumps(line) + "\n")


def wait_for_gate(gate: str, seconds: float = 60.0) -> None:
    """Return when the test has made a file of that name."""
    until = time.monotonic() + seconds
    while not (FOLDER / gate).exists() and time.monotonic() < until:
        time.sleep(0.005)


class OutOfStock(Exception):
    """An error of the application's own."""

    def __init__(self, item: str, wanted: int) -> None:
        super().__init__(item, wanted)
        self.item, self.wanted = item, wanted


class Unspeakable(Exception):
    """An error that has no text, and holds what no serializer can write."""

    def __init__(self) -> None:
        super().__init__(threading.Lock(), lambda: None)

    def __str__(self) -> str:
        raise RuntimeError("it cannot be told")

    __repr__ = __str__


# -- what returns ---------------------------------------------------------------------------------------------


@task()
def add(x: Any, y: Any = 1) -> Any:
    note("add")
    return x + y


@task()
def give(value: Any) -> Any:
    return value


@task(ignore_result=None)
def plain(value: Any) -> Any:
    note("plain", value=value)
    return value


@task(ignore_result=None)
def plain_failure() -> None:
    raise ValueError("nobody asked")


@task()
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task()
def mark_error(task_id: str) -> None:
    note(f"error of {task_id}")


@task(bind=True)
def about(self: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id, "queue": request.delivery_info["routing_key"], "headers": request.headers,
        "priority": request.delivery_info["priority"], "root": request.root_id, "parent": request.parent_id,
        "redelivered": request.delivery_info["redelivered"], "retries": request.retries, "shadow": request.shadow,
        "color": request.get("color"), "hostname": request.hostname, "pid": os.getpid(),
        "timelimit": request.timelimit, "group": request.group, "args": request.args,
    }  # fmt: skip


@task()
def unwritable() -> Any:
    return threading.Lock()


@task(bind=True)
def sends(self: Any) -> list[str]:
    result = self.app.tasks["workload.about"].apply_async()
    return [result.id]


@task(bind=True)
def waits_for_another(self: Any) -> Any:
    return self.app.tasks["workload.add"].delay(1, 2).get(timeout=5)


@task(bind=True, track_started=True)
def tracked(self: Any, gate: str) -> int:
    wait_for_gate(gate)
    return os.getpid()


@task(bind=True, ignore_result=False)
def says_late(self: Any, gate: str) -> int:
    note("start")
    wait_for_gate(gate)
    self.update_state(state="LATE", meta=os.getpid())
    note("said")
    return os.getpid()


@task(bind=True)
def progresses(self: Any, gate: str) -> str:
    self.update_state(state="PROGRESS", meta={"done": 3, "of": 10})
    note("progress")
    wait_for_gate(gate)
    return "whole"


@task(bind=True)
def tells_progress(self: Any, gate: str, total: int, seconds: float = 0.0) -> str:
    """Tells as often as it can for some seconds, at least `total` times, and then nothing more."""
    until = time.monotonic() + seconds
    current = 0
    while current < total or time.monotonic() < until:
        current += 1
        self.progress(current, total, f"step {current}")
    note("told", current=current)
    wait_for_gate(gate)
    return "whole"


@task(bind=True, ignore_result=True)
def tells_progress_quietly(self: Any) -> str:
    self.progress(1, message="begun")
    return "kept"


@task()
async def sums_later(x: int, y: int) -> int:
    await asyncio.sleep(0.01)
    note("coroutine")
    return x + y


@task()
async def fails_later() -> None:
    await asyncio.sleep(0.01)
    raise OutOfStock("tea", 3)


@task()
def asks_by_link_error(task_id: str) -> str:
    note("link_error", failed=task_id)
    return task_id


# -- what raises ----------------------------------------------------------------------------------------------


@task()
def fails(text: str) -> None:
    raise ValueError(text)


@task()
def runs_out() -> None:
    raise OutOfStock("tea", 3)


@task()
def raises_unspeakable() -> None:
    raise Unspeakable


@task()
def raises_stranger() -> None:
    raise type("Stranger", (Exception,), {"__module__": "a.module.of.the.worker"})("hello")


@task(throws=(KeyError,))
def throws() -> None:
    raise KeyError("expected")


@task()
def ignores() -> None:
    note("ignored")
    raise Ignore


@task(bind=True)
def rejects(self: Any, requeue: bool = False) -> str:
    note("rejected")
    if requeue and (FOLDER / self.request.id).exists():
        return "accepted"
    (FOLDER / self.request.id).touch()
    raise Reject("not today", requeue=requeue)


@task()
def exits(code: Any = 3) -> None:
    note("exits")
    sys.exit(code)


@task()
def interrupts() -> None:
    raise KeyboardInterrupt


# -- what goes round again ------------------------------------------------------------------------------------


@task(bind=True, max_retries=5)
def succeeds_at(self: Any, retries: int, countdown: float = 0.0) -> dict[str, Any]:
    note("run", retries=self.request.retries)
    if self.request.retries < retries:
        raise self.retry(countdown=countdown)
    return {"retries": self.request.retries, "headers": self.request.headers}


@task(bind=True, max_retries=2)
def never_succeeds(self: Any, with_cause: bool = False) -> None:
    note("run")
    try:
        raise OutOfStock("tea", 3)
    except OutOfStock as exc:
        raise self.retry(countdown=0, exc=exc if with_cause else None) from exc


@task(bind=True, max_retries=3)
def counts_down(self: Any, number: int, gate: str) -> str:
    note("run", number=number)
    if number:
        raise self.retry(args=(number - 1, gate), countdown=0)
    return "lift-off"


@task(bind=True, autoretry_for=(OutOfStock,), max_retries=2, default_retry_delay=0)
def autoretries(self: Any) -> None:
    note("run", retries=self.request.retries)
    raise OutOfStock("tea", self.request.retries)


@task(autoretry_for=(Exception,), dont_autoretry_for=(KeyError,), default_retry_delay=0)
def gives_up_on_key_errors() -> None:
    note("run")
    raise KeyError("no use")


@task(bind=True, autoretry_for=(OutOfStock,), retry_backoff=0.2, retry_jitter=False, max_retries=2)
def backs_off(self: Any) -> int:
    note("run")
    if self.request.retries < 2:
        raise OutOfStock("tea", 1)
    return int(self.request.retries)


@task(bind=True, max_retries=None)
def waits_for_retry(self: Any, gate: str) -> str:
    note("run")
    if not (FOLDER / gate).exists():
        raise self.retry(countdown=0.05, exc=OutOfStock("tea", 1))
    return "restocked"


# -- what takes its time --------------------------------------------------------------------------------------


@task(bind=True)
def holds(self: Any, gate: str) -> int:
    note("start", crashes=self.request.delivery.crashes, hostname=self.request.hostname)
    wait_for_gate(gate)
    note("end", hostname=self.request.hostname)
    return os.getpid()


@task()
def about_arguments(text: str, gate: str, more: Any) -> None:
    note("start")
    wait_for_gate(gate)


@task(acks_late=False)
def holds_once(gate: str) -> int:
    note("start")
    wait_for_gate(gate)
    note("end")
    return os.getpid()


@task()
def sleeps(seconds: float) -> str:
    note("start")
    time.sleep(seconds)
    note("end")
    return "slept"


@task(bind=True)
def counts_waiting(self: Any, seconds: float) -> dict[str, int]:
    """How many messages wait and how many are out, at its beginning; it sleeps then."""
    stats = self.app.broker.stats(self.request.delivery.queue)
    time.sleep(seconds)
    return {"ready": stats.ready, "running": stats.running}


@task()
def spins(seconds: float) -> str:
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "spun"


@task()
def waits_for_program(seconds: float) -> str:
    note("start")
    subprocess.run(["sleep", str(seconds)], check=True)
    return "waited"


@task()
def keeps_the_interpreter(seconds: float) -> str:
    note("start")
    # One call into C that lets no other thread run Python code; some minutes, if nobody ends it.
    re.match("(a*)*b", "a" * 40)
    return f"kept it longer than {seconds} s"


@task()
def catches_all(seconds: float) -> str:
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.01)
        except BaseException as exc:
            note("caught", error=type(exc).__name__)
    return "caught all"


@task()
def cleans_up(seconds: float) -> str:
    note("start")
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        note("caught")
        return "cleaned up"
    return "not told"


# -- coroutines -----------------------------------------------------------------------------------------------

#: Set by a run that was told to; another run must not see it.
COLOR: ContextVar[str] = ContextVar("color", default="none")


async def wait_for_gate_awaiting(gate: str, seconds: float = 60.0) -> None:
    """As `wait_for_gate`, for coroutines."""
    until = time.monotonic() + seconds
    while not (FOLDER / gate).exists() and time.monotonic() < until:
        await asyncio.sleep(0.005)


@task(bind=True)
async def awaits(self: Any, gate: str) -> int:
    note("start", crashes=self.request.delivery.crashes)
    await wait_for_gate_awaiting(gate)
    note("end")
    return os.getpid()


@task(acks_late=False)
async def awaits_once(gate: str) -> int:
    note("start")
    await wait_for_gate_awaiting(gate)
    return os.getpid()


@task()
async def awaits_long(seconds: float) -> str:
    note("start")
    try:
        await asyncio.gather(asyncio.sleep(seconds), asyncio.Event().wait())
    finally:
        note("left")
    return "slept"


@task()
async def awaits_and_cleans_up(seconds: float) -> str:
    note("start")
    try:
        async with asyncio.timeout(2 * seconds):
            await asyncio.sleep(seconds)
    except SoftTimeLimitExceeded:
        note("caught")
        await asyncio.sleep(0.01)
        return "cleaned up"
    return "not told"


@task()
async def awaits_and_catches_all(seconds: float) -> str:
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.01)
        except BaseException as exc:
            note("caught", error=type(exc).__name__)
    return "caught all"


@task()
async def spins_awaited(seconds: float) -> str:
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "spun"


@task()
async def blocks_loop(seconds: float) -> str:
    note("start")
    time.sleep(seconds)
    note("end")
    return "blocked"


@task()
async def paints(color: str | None, gate: str) -> str:
    """The colour of this run, behind a wait in which others paint theirs."""
    if color is not None:
        COLOR.set(color)
    note("start")
    await wait_for_gate_awaiting(gate)
    found = [COLOR.get(), await asyncio.create_task(_color()), context.current_task().request.id]
    note("painted", found=found)
    return found[0]


async def _color() -> str:
    return COLOR.get()


@task(bind=True, max_retries=3)
async def retries_awaited(self: Any, retries: int) -> int:
    note("run")
    await asyncio.sleep(0)
    if self.request.retries < retries:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@task(bind=True)
async def ends_awaited(self: Any, how: str) -> str:
    note("run")
    await asyncio.sleep(0)
    match how:
        case "ignore":
            raise Ignore
        case "reject":
            raise Reject("not today")
        case "exit":
            sys.exit(3)
        case "cancel":
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(1)
        case "stop":
            asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
            await asyncio.sleep(0.05)
        case "stray":
            asyncio.get_running_loop().call_soon(sys.exit, 3)
            await asyncio.sleep(0.05)
        case _:
            raise OutOfStock(how, 1)
    return how


@task(bind=True)
async def sends_awaited(self: Any) -> str:
    result = await self.app.tasks["workload.about"].adelay()
    return str(result.id)


@task()
async def waits_in_a_coroutine(seconds: float) -> str:
    note("start")
    try:
        await asyncio.sleep(seconds)
    except (SoftTimeLimitExceeded, Terminated):
        await asyncio.sleep(0.01)
        note("told")
        raise
    return "not told"


@task(autoretry_for=(Exception,), max_retries=None)
def ends_in_order(seconds: float, answer: str = "") -> str:
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.01)
        except Exception:
            note("not for me")
        except Terminated:
            note("told")
            if answer == "fail":
                raise OutOfStock("time", 1) from None
            if answer:
                return answer
            raise


# -- what kills its process -----------------------------------------------------------------------------------


@task()
def dies(how: str) -> None:
    note("dies")
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.Signals[how])
    time.sleep(10)


@task()
def dies_once(how: str, gate: str) -> str:
    note("run")
    if not (FOLDER / gate).exists():
        (FOLDER / gate).touch()
        os.kill(os.getpid(), signal.Signals[how])
        time.sleep(10)
    return "survived"


@task(reject_on_worker_lost=False)
def dies_and_fails() -> None:
    note("dies")
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


# -- classes --------------------------------------------------------------------------------------------------


class Deadly(Task[Any, Any]):
    """A base whose hook kills its process."""

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(10)


@task(base=Deadly)
def dies_and_so_does_its_hook() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


class Hooked(Task[Any, Any]):
    """A base that notes its hooks."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note("before_start", args=list(args))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note("on_success", retval=retval)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("on_failure", error=type(exc).__name__, told=str(einfo).splitlines()[0])

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("on_retry", error=type(exc).__name__)

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        note("after_return", status=status)


class Multiply(Hooked):
    """A task that is a class."""

    name = "workload.Multiply"
    ignore_result = False

    def __init__(self) -> None:
        self.made_in = os.getpid()

    def run(self, x: int, y: int) -> int:
        return x * y


class Painted(Hooked):
    """A base whose hook paints."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        COLOR.set("of the hook")


@task(base=Painted)
async def is_painted() -> str:
    await asyncio.sleep(0)
    return COLOR.get()


@task(base=Hooked, bind=True, max_retries=1)
def hooked(self: Any, how: str) -> str:
    note("run")
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=0, exc=OutOfStock("tea", 1))
    if how == "fail":
        raise OutOfStock("tea", 3)
    if how == "die":
        time.sleep(30)
    return "done"


class BrokenHook(Task[Any, Any]):
    """A base whose hook fails."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        raise RuntimeError("a broken hook")


@task(base=BrokenHook)
def has_broken_hook() -> str:
    return "done"


def make_app(broker: str, **settings: Any) -> Celeriac:
    """The application of the tasks above."""
    broadcasts = settings.pop("broadcasts", {})
    app = Celeriac("workload", broker=broker, **settings)
    if broadcasts:
        app.conf.task_queues = [
            "celery",
            *(Broadcast(name, **options) for name, options in broadcasts.items()),
        ]
    unknown = os.environ.get("WORKLOAD_WITHOUT")
    for function, options in _declared:
        if function.__name__ == unknown:
            continue
        app.task(name=f"workload.{function.__name__}", **options)(function)
    app.register_task(Multiply())
    return app


if "WORKLOAD_BROKER" in os.environ:
    app = make_app(os.environ["WORKLOAD_BROKER"], **json.loads(os.environ.get("WORKLOAD_SETTINGS", "{}")))
    if how := os.environ.get("WORKLOAD_IMPORT"):
        raise RuntimeError(how)
