"""Children are replaced after so many tasks, above so much memory, at an age: nothing is lost, nothing runs twice."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from datetime import datetime

import pytest
from harness import WAIT, Site, Worker, wait_until

from celeriac.async_result import AsyncResult

#: More tasks, for workers that are started with `-I growth`.
GROWTH = """
import os
from workload import app, note, wait_for_gate

kept = []

@app.task(name="growth.grows", ignore_result=False)
def grows(mib, gate):
    note("start")
    kept.append(b"x" * (mib << 20))
    note("grown")
    wait_for_gate(gate)
    note("end")
    return os.getpid()
"""
POOLS = pytest.mark.parametrize(
    "pool",
    [("-c", "2"), ("-P", "threads", "-c", "4"), ("-P", "gevent", "-c", "4"), ("-P", "asyncio", "-c", "4")],
    ids=["prefork", "threads", "gevent", "asyncio"],
)


def growing(site: Site, *flags: str, **settings: object) -> Worker:
    (site.folder / "growth.py").write_text(GROWTH)
    return site.worker("-I", "growth", "worker_imports=eager", *flags, **settings)


def grow(site: Site, mib: int, gate: str) -> AsyncResult:
    return site.app.send_task("growth.grows", (mib, gate))


def assert_each_ran_once(site: Site, results: list[AsyncResult]) -> None:
    site.wait_empty()
    ran = [note["id"] for note in site.notes(what="plain")]
    assert sorted(ran) == sorted(result.id for result in results)
    assert site.stats().dead == 0


@POOLS
def test_after_so_many_tasks(site: Site, pool: tuple[str, ...]):
    worker = site.worker(*pool, "--max-tasks-per-child", "7")
    results = [site.send("plain", n) for n in range(100)]
    assert_each_ran_once(site, results)
    each = Counter(note["pid"] for note in site.notes(what="plain"))
    assert max(each.values()) <= 7 and len(each) >= 100 / 7
    assert "exited prematurely" not in worker.log() and worker.stop() == 0


def test_a_process_for_each_task_runs_no_more_at_once_than_the_concurrency(site: Site):
    worker = site.worker("-c", "2", "--max-tasks-per-child", "1")
    results = [site.send("holds", f"gate-{n}") for n in range(6)]
    for n in range(0, 6, 2):
        wait_until(lambda n=n: len(site.notes(what="start")) == n + 2, site.told)
        # Replacements are up, and wait.
        wait_until(lambda: len(worker.children()) == 4, site.told)
        assert len(site.notes(what="start")) == n + 2
        for number, result in enumerate(results):
            if site.notes(result, "start"):
                site.open(f"gate-{number}")
    pids = {result.get(timeout=WAIT) for result in results}
    assert len(pids) == 6 and len(site.notes(what="start")) == 6
    assert worker.stop() == 0


@POOLS
def test_above_a_memory_limit_a_child_is_replaced_when_its_task_has_ended(site: Site, pool: tuple[str, ...]):
    worker = growing(site, *pool, "--max-memory-per-child", "150000")
    before = set(worker.children())
    result = grow(site, 200, "gate")
    old = site.wait_note(result, "grown")["pid"]
    wait_until(lambda: set(worker.children()) - before, site.told)
    if "-P" in pool:
        worker.wait_log(f"(pid {old}) is recycled: memory: ")
    # Its task goes on for as long as it likes, while others take what comes.
    results = [site.send("plain", n) for n in range(50)]
    wait_until(lambda: len(site.notes(what="plain")) == 50, site.told)
    assert old in worker.children() and not site.notes(result, "end")
    site.open("gate")
    assert result.get(timeout=WAIT) == old
    assert_each_ran_once(site, results)
    wait_until(lambda: old not in worker.children(), site.told)
    assert re.search(rf"\(pid {old}\) is recycled: memory: \d+ KiB, more than 150000", worker.log())
    assert len(site.notes(result, "start")) == 1
    assert "exited prematurely" not in worker.log() and worker.stop() == 0


def test_far_above_it_a_child_is_killed_and_its_task_ends_as_a_dead_letter(site: Site):
    worker = growing(site, "-c", "2", "--kill-above-memory", "150000", "--max-memory-per-child", "140000")
    neighbour = site.send("holds", "gate")
    other_child = site.wait_note(neighbour, "start")["pid"]
    result = grow(site, 400, "never")
    (letter,) = site.wait_dead()
    assert len(site.notes(result, "start")) == 3 and not site.notes(result, "end")
    assert len(letter.casualties) == 3
    for casualty in letter.casualties:
        assert "more memory than worker_kill_above_memory" in casualty.cause
        assert (casualty.memory or 0) > 150_000 * 1024
    assert "it was running growth.grows" in worker.log()
    site.open("gate")
    assert neighbour.get(timeout=WAIT) == other_child
    assert len(site.notes(neighbour, "start")) == 1 and worker.stop() == 0


@pytest.mark.parametrize(
    "pool",
    [
        ("-c", "4"),
        ("-P", "threads", "-c", "2", "--processes", "4"),
        ("-P", "gevent", "-c", "2", "--processes", "4"),
        ("-P", "asyncio", "-c", "2", "--processes", "4"),
    ],
    ids=["prefork", "threads", "gevent", "asyncio"],
)
def test_at_an_age_with_a_spread_and_the_replacement_up_first(site: Site, pool: tuple[str, ...]):
    age = ("--max-age-per-child", "1", "--max-age-variance", "2")
    worker = site.worker(*pool, *age, "-l", "DEBUG", "--log-format", "json")
    results: list[AsyncResult] = []

    def lines() -> list[dict]:
        whole = worker.log().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def recycled() -> list[dict]:
        return [line for line in lines() if "is recycled: age: " in line["message"]]

    while len(recycled()) < 6:
        results += [site.send("plain", n) for n in range(5)]
        sent = len(results)
        wait_until(lambda sent=sent: len(site.notes(what="plain")) > sent - 20, site.told)
    assert worker.stop() == 0
    taking = 0
    born: dict[int, datetime] = {}
    ages: list[float] = []
    for line in lines():
        if "takes messages" in line["message"]:
            taking += 1
            born[line["child_pid"]] = datetime.fromisoformat(line["time"])
        elif "is recycled: age: " in line["message"]:
            assert taking > 4, "a child was told to go before its replacement was up"
            taking -= 1
            ages.append((datetime.fromisoformat(line["time"]) - born[line["child_pid"]]).total_seconds())
    assert min(ages) > 0.5 and max(ages) - min(ages) > 0.05
    site.worker("-c", "1")
    assert_each_ran_once(site, results)


def test_a_killed_replacement_is_replaced_itself(site: Site):
    worker = site.worker("-c", "1", "--max-tasks-per-child", "1")
    first = site.send("holds", "gate")
    old = site.wait_note(first, "start")["pid"]
    wait_until(lambda: len(worker.children()) == 2, site.told)
    (standby,) = set(worker.children()) - {old}
    os.kill(standby, 9)
    wait_until(lambda: len(worker.children()) == 2 and standby not in worker.children(), site.told)
    site.open("gate")
    assert first.get(timeout=WAIT) == old
    assert site.send("add", 1).get(timeout=WAIT) == 2
    assert worker.stop() == 0
