"""Orderly stops: what runs may finish, the rest goes back, nothing is lost and nothing is counted."""

from __future__ import annotations

import os
import signal
import time

import pytest
from harness import WAIT, Site, is_running, wait_until

from celeriac import group


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_tasks_finish_and_gives_the_rest_back(site: Site, number: signal.Signals):
    worker = site.worker("-c", "1", "-l", "DEBUG", worker_prefetch_multiplier=5)
    running, *waiting = [site.send("holds", "gate") for _ in range(4)]
    site.wait_note(running, "start")
    stopped_at = time.monotonic()
    worker.ask_to_stop(number)
    wait_until(lambda: (site.stats().ready, site.stats().running) == (3, 1), site.told)
    assert time.monotonic() - stopped_at < 1.0 + 4.0
    site.open("gate")
    assert worker.exit_code() == 0
    assert running.successful()
    assert not any(site.notes(result) for result in waiting)
    stats = site.stats()
    assert (stats.ready, stats.running, stats.dead) == (3, 0, 0)


def test_a_worker_that_stops_takes_nothing_more(site: Site):
    worker = site.worker("-c", "2", "-l", "DEBUG")
    running = site.send("holds", "gate")
    site.wait_note(running, "start")
    worker.ask_to_stop(children=2)
    late = [site.send("add", n) for n in range(5)]
    site.open("gate")
    assert worker.exit_code() == 0
    assert not any(site.notes(result) for result in late) and site.stats().ready == 5


def test_an_idle_worker_stops_at_once(site: Site):
    worker = site.worker("-c", "2")
    pids = worker.tree()
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < 5.0
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_shortens_the_wait(site: Site, second: signal.Signals):
    worker = site.worker("-c", "1")
    result = site.send("holds", "gate")
    site.wait_note(result, "start")
    worker.send_signal(signal.SIGTERM)
    worker.wait_log("stopping")
    started = time.monotonic()
    worker.send_signal(second)
    assert worker.exit_code() == 0
    assert time.monotonic() - started < 8.0
    stats = site.stats()
    assert (stats.ready, stats.running, stats.dead) == (1, 0, 0)


def test_what_a_stop_interrupts_counts_no_crash_and_another_worker_completes_it(site: Site):
    result = site.send("holds", "gate")
    for _ in range(4):  # one more than `task_max_deliveries` would allow
        worker = site.worker("-c", "1", worker_shutdown_timeout=0.1)
        site.wait_note(result, "start", len(site.workers))
        assert worker.stop() == 0
        assert (site.stats().ready, site.stats().dead) == (1, 0)
    site.open("gate")
    site.worker("-c", "1")
    result.get(timeout=WAIT)
    starts = site.notes(result, "start")
    assert len(starts) == 5 and all(start["crashes"] == 0 for start in starts)


def test_sigquit_gives_everything_back_at_once(site: Site):
    worker = site.worker("-c", "2")
    results = [site.send("holds", "gate") for _ in range(2)]
    for result in results:
        site.wait_note(result, "start")
    started = time.monotonic()
    assert worker.stop(signal.SIGQUIT) == 0
    assert time.monotonic() - started < 8.0
    assert (site.stats().ready, site.stats().running, site.stats().dead) == (2, 0, 0)


def test_a_stop_in_a_backlog_runs_nothing_twice_and_loses_nothing(site: Site):
    results = group(site.task("plain").s(n) for n in range(2000)).apply_async()
    for _ in range(2):
        seen = len(site.notes())
        worker = site.worker("-c", "2")
        wait_until(lambda seen=seen: len(site.notes()) > seen + 50, site.told)
        assert worker.stop() == 0
    site.worker("-c", "2")
    site.wait_empty()
    ran = [note["id"] for note in site.notes()]
    assert sorted(ran) == sorted(result.id for result in results)


@pytest.mark.parametrize("pool", ["threads", "gevent", "asyncio"])
def test_all_slots_finish_what_they_run(site: Site, pool: str):
    worker = site.worker("-P", pool, "-c", "4", "-l", "DEBUG")
    results = [site.send("holds", "gate") for _ in range(6)]
    wait_until(lambda: len(site.notes(what="start")) == 4, site.told)
    worker.ask_to_stop(children=len(worker.children()))
    wait_until(lambda: site.stats().ready == 2, site.told)
    site.open("gate")
    assert worker.exit_code() == 0
    assert len(site.notes(what="end")) == 4
    assert sum(result.successful() for result in results) == 4
    assert (site.stats().ready, site.stats().running) == (2, 0)


def test_a_child_that_is_told_to_stop_is_replaced_and_finishes(site: Site):
    worker = site.worker("-c", "1")
    result = site.send("holds", "gate")
    child = site.wait_note(result, "start")["pid"]
    os.kill(child, signal.SIGTERM)
    site.open("gate")
    assert result.get(timeout=WAIT) == child
    assert site.send("add", 1).get(timeout=WAIT) == 2
    wait_until(lambda: worker.children() and child not in worker.children(), worker.log)
    assert len(site.notes(result, "start")) == 1
