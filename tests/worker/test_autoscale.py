"""A worker that scales itself: processes come with the work and go when it is done, and no run is disturbed."""

from __future__ import annotations

import pytest
from harness import WAIT, Site, wait_until


@pytest.mark.parametrize(
    ("flags", "most"),
    [(("--autoscale", "4,1"), 4), (("--autoscale=1,4", "-P", "threads", "-c", "2"), 2)],
    ids=["prefork", "threads"],
)
def test_processes_come_with_the_work_and_go_when_it_is_done(site: Site, flags: tuple[str, ...], most: int):
    worker = site.worker(*flags, worker_autoscale_keepalive=1.0)
    assert len(worker.children()) == 1
    long = site.send("holds", "late")
    short = [site.send("holds", "soon") for _ in range(7)]
    wait_until(lambda: len(site.notes(what="start")) == 4, site.told)
    assert len(worker.children()) == most
    site.open("soon")
    for result in short:
        result.get(timeout=WAIT)
    wait_until(lambda: len(worker.children()) == 1, worker.log)
    # Who still runs something is not the one to go.
    site.open("late")
    assert [long.get(timeout=WAIT)] == worker.children()
    assert len(site.notes(what="start")) == len(site.notes(what="end")) == 8
    assert f"to {most} processes" in worker.log() and "to 1 processes" in worker.log()
    assert worker.stop() == 0


def test_a_worker_that_grows_stops_in_order(site: Site):
    worker = site.worker("--autoscale", "6,2")
    results = [site.send("holds", "gate") for _ in range(20)]
    wait_until(lambda: len(site.notes(what="start")) > 2, site.told)
    worker.wait_log("goes from")
    worker.send_signal(15)
    worker.wait_log("stopping")
    site.open("gate")
    assert worker.exit_code() == 0
    ended = sum(result.successful() for result in results)
    assert len(site.notes(what="start")) == len(site.notes(what="end")) == ended
    assert (site.stats().ready, site.stats().running) == (20 - ended, 0)
