"""Receivers of signals, for workers of tests: `-I told` writes down every signal that is sent.

With `TOLD=logging` the application sets up its logs itself; with `TOLD=header` it gives its messages one; with
`TOLD=broken` every receiver raises.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import workload

from celeriac import Celeriac, context, signals

WISH = os.environ.get("TOLD", "")


def tell(signal: Any = None, sender: Any = None, **named: Any) -> None:
    """Write down one signal."""
    task = context.current_task()
    line = {
        "signal": signal.name, "pid": os.getpid(), "sender": getattr(sender, "hostname", None) or str(sender),
        "task": None if task is None else task.name, "named": {name: str(value) for name, value in named.items()},
    }  # fmt: skip
    with (workload.FOLDER / "told").open("a") as told:
        told.write(json.dumps(line) + "\n")
    if WISH == "broken":
        raise LookupError("a receiver of the test's")


for _name in signals.__all__:
    _signal = getattr(signals, _name)
    if not _signal.never and _name != "setup_logging":
        _signal.connect(tell)

if WISH == "logging":

    @signals.setup_logging.connect
    def log_in_its_own_way(loglevel: int, **named: Any) -> None:
        """Everything in upper case."""
        logging.basicConfig(level=loglevel, format="OWN %(message)s", stream=sys.stderr, force=True)


if WISH == "header":

    @signals.before_task_publish.connect
    def number(headers: dict[str, Any], **named: Any) -> None:
        """Every message says who sent it: the process, or the run."""
        task = context.current_task()
        headers["from"] = "a process" if task is None else task.name


@signals.celeryd_init.connect
def configure(conf: Any, **named: Any) -> None:
    """A setting that only workers have."""
    conf.worker_max_tasks_per_child = int(os.environ.get("TOLD_MAX_TASKS", "0")) or None


def app_of(sender: Any) -> Celeriac:
    """The application behind a sender."""
    app: Celeriac = sender.app
    return app


@signals.worker_ready.connect
def greet(sender: Any, **named: Any) -> None:
    """Send a task as soon as there is somebody to run it."""
    app_of(sender).send_task("workload.add", (20, 22), ignore_result=True)
