"""A template that has one child is a second copy of it: it ends, and comes back when it is needed."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from harness import WAIT, Site, Worker, is_running, wait_until
from tests import processes

from celeriac.supervisor import plan
from celeriac.supervisor.plan import Child, State, Wishes

AT_ONCE: dict[str, Any] = {"worker_template_keepalive": 0}
POOLS = pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio"])


def wait_rested(worker: Worker) -> int:
    """The one child of a worker whose template has ended."""
    wait_until(lambda: not processes.templates(worker.pid) and len(worker.children()) == 1, worker.log)
    return worker.children()[0]


@POOLS
def test_a_template_ends_and_is_back_when_the_child_has_died(sqlite_site: Site, pool: str):
    worker = sqlite_site.worker("-P", pool, "-c", "1", **AT_ONCE)
    child = wait_rested(worker)
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2 and worker.children() == [child]
    result = sqlite_site.send("holds", "gate")
    sqlite_site.wait_note(result, "start")
    os.kill(child, signal.SIGKILL)
    # Nobody forked it who is still there, and yet it is known how it ended.
    worker.wait_log(f"(pid {child}) exited prematurely")
    assert "signal 9 (SIGKILL)" in worker.log()
    sqlite_site.open("gate")
    assert result.get(timeout=WAIT) != child and wait_rested(worker) != child
    assert worker.stop() == 0


def test_it_is_back_for_a_replacement_which_is_up_first(sqlite_site: Site):
    worker = sqlite_site.worker("-c", "1", worker_max_age_per_child=1, **AT_ONCE)
    first = worker.children()[0]
    for n in range(3):
        worker.wait_log(f"(pid {first}) is recycled: age")
        wait_until(lambda first=first: first not in worker.children() and worker.children(), worker.log)
        assert sqlite_site.send("add", n).get(timeout=WAIT) == n + 1
        first = worker.children()[-1]
    assert worker.stop() == 0 and "exited prematurely" not in worker.log()


def test_a_reload_works_without_it(sqlite_site: Site):
    worker = sqlite_site.worker("-c", "1", **AT_ONCE)
    child = wait_rested(worker)
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: not is_running(child), worker.log)
    assert wait_rested(worker) != child
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2 and worker.stop() == 0


def test_the_child_speaks_for_the_application_then(sqlite_site: Site):
    worker = sqlite_site.worker("-c", "1", **AT_ONCE)
    wait_rested(worker)
    told = sqlite_site.app.control.inspect(timeout=WAIT, limit=1)
    names, settings = told.registered(), told.conf()
    assert names is not None and "workload.add" in names["w1@test"]
    assert settings is not None and settings["w1@test"]["worker_template_keepalive"] == 0


@pytest.mark.parametrize(
    "code",
    [
        "from celeriac.signals import worker_shutdown\n@worker_shutdown.connect\ndef ends(**_): note('ends')\n",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
    ],
    ids=["signals", "threads"],
)
def test_it_stays_where_user_code_needs_it(sqlite_site: Site, code: str):
    (sqlite_site.folder / "needs.py").write_text(f"from workload import note\n{code}")
    worker = sqlite_site.worker("-I", "needs", "-c", "1", worker_imports="eager", **AT_ONCE)
    template = worker.template()
    # For some rounds of the supervisor, each of which would let it go.
    assert sqlite_site.send("sleeps", 1.5).get(timeout=WAIT) is not None
    assert worker.template() == template and worker.stop() == 0


ONE = Child(number=1, started_at=100.0)


@pytest.mark.parametrize(
    ("children", "processes", "spares"),
    [
        ([ONE], 1, True),
        ([Child(number=1, started_at=101.0)], 1, False),
        ([Child(number=1, started_at=100.0, outdated=True)], 1, False),
        ([Child(number=1, started_at=100.0, begun=False)], 1, False),
        ([Child(number=1, started_at=100.0, state=State.LEAVING)], 1, False),
        ([ONE, Child(number=2, started_at=100.0)], 2, False),
        ([ONE, Child(number=2, started_at=100.0, state=State.LEAVING)], 1, False),
        ([ONE], 2, False),
        ([], 1, False),
    ],
)
def test_what_is_shared_or_needed_stays(children: list[Child], processes: int, spares: bool):
    assert plan.spares_template(children, Wishes(processes=processes), 30.0, 130.0) is spares
