"""What the task modules of an application cost a worker: `celeriac worker --show-imports`.

The application is imported here; then each module in a process of its own that is forked from this one, so that none
is charged for what another had loaded before it. What two of them share is charged to both: their sum is more than the
last line, which is all of them in one process.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from celeriac import clock, context, machine, plugins, task_modules, wire
from celeriac.cli import show
from celeriac.cli.opening import find_app
from celeriac.wire import WorkerOptions
from celeriac.worker import template

_COLUMNS: Final = ("module", "imported", "tasks", "modules", "MB", "ms", "error")
_NUMERIC: Final = ("tasks", "modules", "MB", "ms")


class Cost(msgspec.Struct, frozen=True):
    """What an import takes: bytes of memory that are its own, seconds, modules that were loaded, tasks that came."""

    memory: int = 0
    seconds: float = 0.0
    modules: int = 0
    tasks: int = 0
    error: str = ""


def run(options: WorkerOptions, color: bool) -> int:
    """Print the table. Returns 1 where a module cannot be imported."""
    template.patch_early(options)
    before = _now()
    app = find_app(options.app)
    app.conf.config_from_flags(options.settings)
    with context.as_current(app):
        names = task_modules.names_of(app, options.include)
        loaded = _since(before, app)
        costs = {name: _apart(app, [name]) for name in names if name not in sys.modules}
        everything = _apart(app, list(costs))
    rows = [_row(app.main or options.app, "at the start", loaded)]
    for name, cost in sorted(costs.items(), key=lambda item: -item[1].memory):
        rows.append(_row(name, _when(app, name), cost))
    rows.append(_row("all of them", "", everything))
    show.table(_COLUMNS, rows, numeric=_NUMERIC, color=color)
    return wire.EXIT_FAILURE if any(cost.error for cost in costs.values()) else wire.EXIT_OK


def _row(name: str, when: str, cost: Cost) -> tuple[str, ...]:
    memory, ms = f"{cost.memory / 1e6:.1f}", f"{cost.seconds * 1e3:.0f}"
    return (name, when, str(cost.tasks), str(cost.modules), memory, ms, cost.error)


def _when(app: Any, name: str) -> str:
    """When a worker imports that module."""
    if app.conf.worker_imports == "eager" or task_modules.scan(name, plugins.source_of(name)).is_wanted:
        return "at the start"
    return "when wanted"


def _apart(app: Any, names: Sequence[str]) -> Cost:
    """What these modules cost, in a process of their own."""

    def work() -> Cost:
        before = _now()
        tasks = len(app.tasks)
        for name in names:
            try:
                plugins.load(name)
            except Exception as exc:  # noqa: BLE001 - user code
                if len(names) == 1:
                    return _since(before, app, tasks, "".join(traceback.format_exception_only(exc)).strip())
        return _since(before, app, tasks)

    return _forked(work)


def _forked(work: Callable[[], Cost]) -> Cost:
    """What `work` answers in a process that is forked for it."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, msgspec.json.encode(work()))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return (
        msgspec.json.decode(said, type=Cost) if said else Cost(error=f"its import ended the process ({code})")
    )


def _now() -> tuple[float, int, int]:
    return clock.monotonic(), len(sys.modules), machine.own_memory()


def _since(before: tuple[float, int, int], app: Any, tasks: int = 0, error: str = "") -> Cost:
    began, modules, memory = before
    seconds = clock.monotonic() - began
    return Cost(
        memory=max(0, machine.own_memory() - memory),
        seconds=seconds,
        modules=len(sys.modules) - modules,
        tasks=len([name for name in app.tasks if not name.startswith("celery.")]) - tasks,
        error=error,
    )
