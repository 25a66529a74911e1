"""What pools promise: concurrency, fresh processes, and messages that wait behind nothing long."""

from __future__ import annotations

import signal

import pytest
from harness import WAIT, Site, wait_until


@pytest.mark.parametrize(
    ("pool", "processes"), [("prefork", 3), ("threads", 1), ("gevent", 1), ("asyncio", 1)]
)
def test_a_pool_runs_as_many_at_once_as_it_says(site: Site, pool: str, processes: int):
    site.worker("-P", pool, "-c", "3")
    results = [site.send("holds", "gate") for _ in range(4)]
    wait_until(lambda: len(site.notes(what="start")) == 3, site.told)
    assert len({note["pid"] for note in site.notes(what="start")}) == processes
    stats = site.stats()
    assert stats.ready + stats.running == 4
    site.open("gate")
    for result in results:
        result.get(timeout=WAIT)
    assert len(site.notes(what="start")) == 4


@pytest.mark.parametrize("pool", ["threads", "gevent", "asyncio"])
def test_more_processes_of_many_slots(site: Site, pool: str):
    worker = site.worker("-P", pool, "-c", "2", "--processes", "2")
    assert len(worker.children()) == 2
    for _ in range(4):
        site.send("holds", "gate")
    wait_until(lambda: len(site.notes(what="start")) == 4, site.told)
    assert len({note["pid"] for note in site.notes(what="start")}) == 2


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "asyncio"])
def test_coroutines_run_in_every_pool(sqlite_site: Site, pool: str):
    sqlite_site.worker("-P", pool, "-c", "2")
    results = [sqlite_site.send("sums_later", n, 1) for n in range(5)]
    assert [result.get(timeout=WAIT) for result in results] == [1, 2, 3, 4, 5]
    with pytest.raises(Exception, match="tea"):
        sqlite_site.send("fails_later").get(timeout=WAIT)


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "asyncio"])
def test_leaving_the_interpreter_fails_the_task_only_in_every_pool(sqlite_site: Site, pool: str):
    worker = sqlite_site.worker("-P", pool, "-c", "1")
    children = worker.children()
    result = sqlite_site.send("exits")
    wait_until(result.failed, sqlite_site.told)
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2
    assert worker.children() == children


@pytest.mark.parametrize(
    "flags",
    [("-c", "2"), ("-P", "threads", "-c", "4"), ("-P", "gevent", "-c", "4"), ("-P", "asyncio", "-c", "4")],
    ids=["prefork", "threads", "gevent", "asyncio"],
)
def test_recycling_children_neither_loses_nor_doubles_tasks(site: Site, flags: tuple[str, ...]):
    results = [site.send("plain", n) for n in range(60)]
    worker = site.worker(*flags, "--max-tasks-per-child", "5")
    site.wait_empty()
    notes = site.notes(what="plain")
    assert sorted(note["id"] for note in notes) == sorted(result.id for result in results)
    by_pid = [sum(note["pid"] == pid for note in notes) for pid in {note["pid"] for note in notes}]
    assert len(by_pid) >= 12 and max(by_pid) <= 5
    assert worker.stop() == 0


def test_children_that_grew_are_recycled(sqlite_site: Site):
    worker = sqlite_site.worker("-c", "1", "--max-memory-per-child", "1")
    first = worker.children()
    wait_until(lambda: not set(first) & set(worker.children()), worker.log)
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2


def test_a_long_task_does_not_hold_up_what_was_taken_with_it(site: Site):
    for n in range(50):  # short ones, so that many are taken at once
        site.send("plain", n)
    long = site.send("holds", "gate")
    behind = [site.send("add", n) for n in range(5)]
    site.worker("-c", "1")
    site.wait_note(long, "start")
    site.worker("-c", "1")
    assert [result.get(timeout=WAIT) for result in behind] == [1, 2, 3, 4, 5]
    assert not site.notes(long, "end")
    site.open("gate")
    long.get(timeout=WAIT)


def test_a_multiplier_says_how_many_messages_wait_in_a_worker(site: Site):
    for _ in range(10):
        site.send("spins", 0.01)
    holding = site.send("holds", "gate")
    for _ in range(10):
        site.send("plain", 1)
    site.worker("-c", "1", "--prefetch-multiplier", "1")
    site.wait_note(holding, "start")
    stats = site.stats()
    assert (stats.running, stats.ready) == (1, 10)
    site.open("gate")
    site.wait_empty()


def test_a_hangup_reloads_the_application_and_loses_nothing(site: Site):
    worker = site.worker("-c", "2")
    before = worker.tree()
    running = site.send("holds", "gate")
    site.wait_note(running, "start")
    worker.send_signal(signal.SIGHUP)
    site.open("gate")
    running.get(timeout=WAIT)
    # Nothing is left of what there was, and two new children are there.
    wait_until(lambda: len(worker.children()) == 2 and not set(worker.tree()[1:]) & set(before), worker.log)
    assert site.send("add", 1).get(timeout=WAIT) == 2
    assert len(site.notes(running, "start")) == 1
