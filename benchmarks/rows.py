"""The rows of the table: what is measured, and how. A row's function measures one system once, on an empty server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from rig import Worker
from system import System

#: What one measurement gives: line -> figure.
Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How much is done: enough for a figure that says something, and bounded."""

    waiting: int = 5_000
    seconds: float = 1.5
    sends_seconds: float = 0.8
    naps: int = 1000
    latencies: int = 100
    memory_tasks: int = 100_000
    memory_seconds: float = 15.0
    results: int = 8_000
    rounds: int = 3


QUICK = Scale(
    waiting=2_000,
    seconds=0.5,
    sends_seconds=0.2,
    naps=200,
    latencies=30,
    memory_tasks=10_000,
    memory_seconds=1.0,
    results=2_000,
    rounds=1,
)


@dataclass(frozen=True)
class Required:
    """What Celeriac has promised itself: a figure of its own, or a ratio to another system's."""

    figure: float
    than: str | None = None
    at_least: bool = False


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    title: str
    more_is_better: bool = False
    required: Required | None = None


@dataclass(frozen=True)
class Row:
    """Lines that one measurement gives. `once`: a single round is enough, or all that time allows."""

    measure: Callable[[System, Scale], Figures]
    lines: dict[str, Line]
    once: bool = False


def waiting(system: System, scale: Scale) -> Figures:
    """Bytes of Redis for a waiting task."""
    system.ask("one", 10)
    before = system.server.size()
    # It sends exactly as many as it is asked to.
    system.ask("one", scale.waiting)
    return {"waiting": (system.server.size() - before) / scale.waiting}


def send(system: System, scale: Scale) -> Figures:
    """Messages per second, one by one."""
    rate = system.ask("one", 300)
    return {"send": system.ask("one", int(max(300.0, min(20_000.0, rate * scale.sends_seconds))))}


def bulk(system: System, scale: Scale) -> Figures:
    """Messages per second by the system's way to send many: up to 100,000."""
    rate = system.ask("bulk", 1000)
    # A thousand say too little of those that are fast, so more of them than the time seems to allow.
    return {"bulk": system.ask("bulk", int(max(1000.0, min(100_000.0, rate * scale.sends_seconds * 2))))}


def settled(system: System, scale: Scale) -> Figures:
    """Tasks per second while a backlog is worked off, and broker commands for each."""
    found: Figures = {}
    for children, shape in ((1, "one"), (2, "two")):
        if shape not in system.rates:
            system.rates[shape] = drain(system, shape, scale.seconds / 3, 1000)[0]
        count = int(max(1000.0, min(400_000.0, system.rates[shape] * scale.seconds)))
        rate, commands = drain(system, shape, scale.seconds, count)
        system.rates[shape] = rate
        found[f"settled{children}"] = rate
        if children == 1:
            found["commands"] = commands
    return found


def drain(system: System, shape: str, seconds: float, count: int) -> tuple[float, float]:
    """Tasks per second and commands for each, from the first twentieth on, for so long at most."""
    system.clear()
    system.ask("fill", "scrape", count)
    with system.start(shape) as worker:
        worker.wait_for(lambda: system.tally.total() >= count // 20, 60, "the first tasks", pause=0.001)
        commands = system.server.commands()
        begun, started = system.tally.total(), time.perf_counter()
        until = started + seconds
        worker.wait_for(
            lambda: system.tally.total() >= count or time.perf_counter() > until,
            60,
            "the others",
            pause=0.001,
        )
        done, took = system.tally.total() - begun, time.perf_counter() - started
        used = system.server.commands() - commands
    if done <= 0:
        raise RuntimeError(f"all {count} tasks had run before they could be counted")
    return done / took, used / done


def naps(system: System, scale: Scale) -> Figures:
    """Seconds for sleeps of 0.1 s on a hundred slots, from the first one's start; scaled to a thousand."""
    system.ask("fill", "nap", scale.naps)
    with system.start("slots") as worker:
        worker.wait_for(lambda: system.tally.total() >= 1, 30, "the first nap", pause=0.001)
        started = time.perf_counter() - 0.1
        worker.wait_for(lambda: system.tally.total() >= scale.naps, 60, "all naps", pause=0.001)
        return {"naps": (time.perf_counter() - started) * 1000 / scale.naps}


def latency(system: System, scale: Scale) -> Figures:
    """Milliseconds from the call of `delay` to the start of the task, on a worker that waits."""
    with system.start("one") as worker:
        system.ask("fill", "stamp", 1)
        worker.wait_for(lambda: len(system.journal) >= 1, 30, "the first task")
        system.journal.clear()
        system.ask("pace", scale.latencies, 0.02)
        worker.wait_for(lambda: len(system.journal) >= scale.latencies + 5, 30, "all tasks")
    waits = sorted(entry.started - entry.sent for entry in system.journal.entries() if entry.sent)
    return {"latency50": statistics.median(waits) * 1e3, "latency99": waits[int(len(waits) * 0.99)] * 1e3}


def memory(system: System, scale: Scale) -> Figures:
    """Megabytes (PSS) of the whole tree: idle after ten tasks, and after many, or as many as time allows."""
    found: Figures = {}
    for line, shape in (("idle", "one"), ("idle8", "eight"), ("idle100", "slots")):
        if not system.has(shape):
            continue
        system.clear()
        with system.start(shape) as worker:
            system.ask("fill", "scrape", 10)
            worker.wait_for(lambda: system.tally.total() >= 10, 30, "ten tasks")
            time.sleep(0.5)
            found[line] = worker.memory()
            if line == "idle":
                _work_for(system, worker, scale)
                found |= {"used": worker.memory(), "used_after": system.tally.total()}
    return found


def _work_for(system: System, worker: Worker, scale: Scale) -> None:
    """Send and run many tasks, while there is time."""
    until, count = time.monotonic() + scale.memory_seconds, system.tally.total() + scale.memory_tasks
    with system.begin("fill", "scrape", scale.memory_tasks) as sender:
        try:
            worker.wait_for(
                lambda: system.tally.total() >= count or time.monotonic() > until,
                scale.memory_seconds + 10,
                "many tasks",
            )
        finally:
            sender.kill()


def start(system: System, scale: Scale) -> Figures:
    """Seconds from a worker's start to the end of its first task."""
    system.ask("fill", "scrape", 1)
    with system.start("one") as worker:
        worker.wait_for(lambda: system.tally.total() >= 1, 30, "the first task", pause=0.001)
        return {"start": time.monotonic() - worker.started}


def result(system: System, scale: Scale) -> Figures:
    """Bytes of Redis that remain of a task with a small result."""
    with system.start("keeper") as worker:
        system.ask("fill", "add", 10)
        worker.wait_for(lambda: system.tally.total() >= 10, 30, "ten tasks")
        time.sleep(1.0)
        before = system.server.size()
        system.ask("fill", "add", scale.results)
        worker.wait_for(lambda: system.tally.total() >= scale.results + 10, 60, "all tasks")
        time.sleep(1.0)
        return {"result": (system.server.size() - before) / scale.results}


def recycling(system: System, scale: Scale) -> Figures:
    """Tasks per second where each runs in a process of its own, with an application that takes 1 s to import."""
    count = 1000 if system.name in ("celeriac", "bare") else 200
    system.ask("fill", "stamp", count)
    with system.start("recycling", BENCH_IMPORT_SECONDS="1") as worker:
        worker.wait_for(lambda: len(system.journal) >= 10, 60, "the first tasks")
        until = time.monotonic() + 2 * scale.seconds
        worker.wait_for(lambda: len(system.journal) >= count or time.monotonic() > until, 60, "the others")
    entries = sorted(system.journal.entries(), key=lambda entry: entry.started)
    if len({entry.pid for entry in entries}) != len(entries):
        raise RuntimeError("two tasks shared a process")
    return {"recycling": (len(entries) - 10) / (entries[-1].started - entries[9].started)}


ROWS: dict[str, Row] = {
    "waiting": Row(waiting, {"waiting": Line("bytes of Redis, waiting task", required=Required(110))}, once=True),
    "send": Row(send, {"send": Line("sends/s, one by one", True, Required(0.8, "bare", True))}),
    "bulk": Row(bulk, {"bulk": Line("sends/s, many at once", True, Required(60, "celery", True))}),
    "settled": Row(settled, {
        "settled1": Line("settled/s, one child", True, Required(30, "celery", True)),
        "settled2": Line("settled/s, two children", True, Required(40, "celery", True)),
        "commands": Line("broker commands, one task", required=Required(0.2)),
    }),
    "naps": Row(naps, {"naps": Line("1,000 sleeps of 0.1 s, 100 slots, s")}),
    "latency": Row(latency, {
        "latency50": Line("from delay to start, median, ms"),
        "latency99": Line("from delay to start, 99 of 100, ms"),
    }),
    "memory": Row(memory, {
        "idle": Line("worker idle, MB", required=Required(42)),
        "used": Line("worker after 100,000 tasks, MB", required=Required(42)),
        "idle8": Line("eight children idle, MB", required=Required(90)),
        "idle100": Line("100 slots idle, MB", required=Required(42)),
    }, once=True),
    "start": Row(start, {"start": Line("worker's start to first task, s")}),
    "result": Row(result, {"result": Line("bytes of Redis, small result", required=Required(150))}, once=True),
    "recycling": Row(recycling, {
        "recycling": Line("a process each, 1 s of import, tasks/s", True, Required(100, at_least=True)),
    }),
}  # fmt: skip
