"""An application such as people have: five queues, and for each a module of tasks with the library that it needs."""

from __future__ import annotations

#: Queue -> module of its tasks. Every module has one task, `run`.
MODULES = {
    "scrape": "heavy.scrape",
    "report": "heavy.report",
    "upload": "heavy.upload",
    "model": "heavy.model",
    "notify": "heavy.notify",
}


def task_name(queue: str) -> str:
    return f"{MODULES[queue]}.run"
