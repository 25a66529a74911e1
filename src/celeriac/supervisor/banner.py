"""What a worker says of itself when it starts: what it listens to, with which limits, and what it can run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from celeriac.urls import mask_url
from celeriac.wire import Ready

_WIDTH: Final = 100
_LABEL: Final = 14


def render(ready: Ready) -> str:
    """The banner as text, its last line ended; passwords are masked."""
    rows = [
        ("app", ready.app),
        ("broker", mask_url(ready.broker_url)),
        ("results", mask_url(ready.results)),
        ("pool", pool(ready)),
        ("queues", ", ".join(ready.queues) + (f" ({ready.queue_order})" if ready.queue_order else "")),
        ("time limits", time_limits(ready)),
        ("recycling", recycling(ready)),
        ("lease", f"{ready.lease:g} s; {ready.max_deliveries} crashes send a task to the dead letters"),
        ("shutdown", f"running tasks have {ready.shutdown_timeout:g} s to finish"),
        ("tasks", f"{len(ready.tasks)} known" if ready.tasks else "none: is their module imported?"),
    ]
    title = f"celeriac {ready.version}  {ready.hostname}"
    lines = [title, *(f"  {label:<{_LABEL}}{text}" for label, text in rows), *columns(ready.tasks)]
    return "\n".join(["", *lines, "", ""])


def pool(ready: Ready) -> str:
    """How many processes of how many slots."""
    processes = "1 process" if ready.processes == 1 else f"{ready.processes} processes"
    slots = "1 slot" if ready.slots == 1 else f"{ready.slots} slots"
    if ready.most_processes is not None:
        return f"{ready.pool}, {ready.processes} to {ready.most_processes} processes of {slots}"
    return f"{ready.pool}, concurrency {ready.processes * ready.slots} ({processes} of {slots})"


def time_limits(ready: Ready) -> str:
    """The worker's own time limits; a task may have others."""
    soft = f"soft {ready.soft_time_limit:g} s" if ready.soft_time_limit else "soft none"
    hard = f"hard {ready.time_limit:g} s" if ready.time_limit else "hard none"
    return f"{soft}, {hard}, unless a task says otherwise"


def recycling(ready: Ready) -> str:
    """After what a child is replaced."""
    bounds: list[str] = []
    if ready.max_tasks is not None:
        bounds.append(f"after {ready.max_tasks} tasks")
    if ready.max_memory is not None:
        bounds.append(f"above {ready.max_memory} KiB")
    if ready.max_age is not None:
        spread = f" to {ready.max_age + ready.max_age_variance:g}" if ready.max_age_variance else ""
        bounds.append(f"at an age of {ready.max_age:g}{spread} s")
    if ready.kill_above_memory is not None:
        bounds.append(f"killed above {ready.kill_above_memory} KiB")
    return ", ".join(bounds) or "never"


def columns(names: Sequence[str]) -> list[str]:
    """Names in as many columns as fit, read downwards."""
    if not names:
        return []
    width = max(map(len, names)) + 2
    count = max(1, (_WIDTH - 4) // width)
    height = -(-len(names) // count)
    return [
        "    " + "".join(f"{name:<{width}}" for name in names[row::height]).rstrip() for row in range(height)
    ]
