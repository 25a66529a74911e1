"""Write docs/reference/events.md from the classes of events: `python docs/generate_events.py`."""

from __future__ import annotations

import inspect
from pathlib import Path

from celeriac import events
from celeriac.events import Event, TaskEvent

PAGE = Path(__file__).parent / "reference" / "events.md"

INTRODUCTION = """\
# Events

<!-- Written by docs/generate_events.py; change the classes in src/celeriac/events.py instead. -->

What happens is told once, as a value. The log lines of a worker are written by a listener
(`celeriac/logs.py`); anything else may listen too:

    from celeriac.events import BUS, TaskFailed

    BUS.listen(TaskFailed, lambda event: print(event.task, event.id, event.error))

A listener hears the events of its own process, of exactly the class that it asked for, in the thread in which they
happen. What it raises is logged and goes no further. An event that nobody listens to costs next to nothing.
"""

FAMILIES = {
    "Task": ("Tasks", "All of these have `id` and `task`, the id and the name of the task."),
    "Hook": ("Hooks", "These have `id` and `task` too."),
    "Worker": ("Workers", "Told by the supervisor."),
    "Child": (
        "Children",
        "Told by the supervisor: `number` counts from 1 and stays when a child is replaced.",
    ),
    "Broker": ("The broker", "Told by the process that misses it."),
    "Messages": ("Lists of brokers", "Told by the supervisor that moved them."),
    "Lease": ("Leases", "Told by the child that held the lease."),
    "Dead": ("Dead letters", "Told by the supervisor that deleted them."),
    "Copies": ("Broadcasts", "Told by the supervisor that deleted the queue."),
}


def kinds() -> list[type[Event]]:
    """Every class of events that is emitted, in the order of their module."""
    found = [kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, Event)]
    emitted = [kind for kind in found if kind not in (Event, TaskEvent)]
    return sorted(emitted, key=lambda kind: inspect.getsourcelines(kind)[1])


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    rest = kinds()
    for prefix, (title, text) in FAMILIES.items():
        own = [kind for kind in rest if kind.__name__.startswith(prefix)]
        rest = [kind for kind in rest if kind not in own]
        parts.append(f"## {title}\n\n{text}\n")
        parts.extend(map(_entry, own))
    if rest:
        raise SystemExit(f"no family in {__file__} for {', '.join(kind.__name__ for kind in rest)}")
    return "\n".join(parts)


def _entry(kind: type[Event]) -> str:
    fields = ", ".join(f"`{name}: {hint}`" for name, hint in inspect.get_annotations(kind).items())
    text = " ".join((kind.__doc__ or "").split())
    return f"### `{kind.__name__}`\n\n{text}\n" + (f"Fields: {fields}.\n" if fields else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
