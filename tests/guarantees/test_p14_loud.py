"""P14: what is misspelt or of the wrong type is an error that names what was meant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import WAIT, python_path

from celeriac import Celeriac
from celeriac.exceptions import CeleriacError


def declare(**options: Any) -> Callable[[Celeriac], Any]:
    return lambda app: app.task(name="t", **options)(lambda: None)


def send(**options: Any) -> Callable[[Celeriac], Any]:
    return lambda app: app.task(name="t")(lambda: None).apply_async(**options)


def configure(**settings: Any) -> Callable[[Celeriac], Any]:
    return lambda app: app.conf.update(settings)


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (configure(task_acks_lat=True), "task_acks_late"),
        (configure(worker_leese=3), "worker_lease"),
        (configure(worker_concurrency="many"), "worker_concurrency"),
        (configure(task_ignore_result="perhaps"), "task_ignore_result"),
        (lambda app: app.conf.broker_ulr, "broker_url"),
        (declare(acks_lat=True), "acks_late"),
        (declare(time_limits=3), "time_limit"),
        (declare(max_retries="three"), "max_retries"),
        (send(count_down=3), "countdown"),
        (send(priorty=3), "priority"),
        (send(priority="high"), "priority"),
    ],
)
def test_p14_a_mistake_is_an_error_that_names_what_was_meant(mistake: Callable[[Celeriac], Any], named: str):
    with Celeriac("loud", broker="memory://") as app:
        with pytest.raises((CeleriacError, TypeError, AttributeError), match=named):
            mistake(app)
        assert app.broker.queues() == []


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        (("worker", "--concurency", "2"), "{}", "--concurrency"),
        (("worker", "--max-task-per-child", "2"), "{}", "--max-tasks-per-child"),
        (("worker", "-c", "two"), "{}", "concurrency"),
        (("worker", "-P", "perfork"), "{}", "prefork"),
        (("wroker",), "{}", "worker"),
        (("worker", "--task-acks-lat=1"), "{}", "task"),
        (("worker",), '{"task_time_limits": 3}', "task_time_limit"),
    ],
)
def test_p14_a_worker_with_a_mistake_does_not_start(
    arguments: tuple[str, ...], settings: str, named: str, tmp_path: Path
):
    done = subprocess.run(
        [sys.executable, "-m", "celeriac", "-A", "workload", *arguments], cwd=tmp_path, check=False,
        env={"PYTHONPATH": python_path(), "WORKLOAD_BROKER": "sqlite:///q", "WORKLOAD_SETTINGS": settings},
        capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode != 0 and named in done.stderr
