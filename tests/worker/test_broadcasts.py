"""Broadcasts: a copy for each worker, those that are away for a moment too, and none for those that are gone."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import pytest
from harness import WAIT, Site, wait_until

from celeriac.brokers.abilities import Broadcasting

ONE, TWO = "news.w1@test", "news.w2@test"


@pytest.fixture
def site(any_site: Site) -> Site:
    """On RabbitMQ as well."""
    return any_site


def two_workers(site: Site, **settings: Any) -> None:
    settings = {"broadcasts": {"news": {}}, **settings}
    for _ in range(2):
        site.worker("-c", "2", "-Q", "news", **settings)


def test_every_worker_has_a_copy_and_no_child_has_one_of_its_own(site: Site):
    two_workers(site)
    result = site.call("holds", "gate", queue="news")
    site.wait_note(result, "start", count=2)
    assert {note["hostname"] for note in site.notes(result)} == {"w1@test", "w2@test"}
    assert [site.stats(queue).running for queue in ("news", ONE, TWO)] in ([0, 1, 1], [None] * 3)
    site.open("gate")
    # A retry is of the worker's own copy.
    retried = site.call("counts_down", 1, "gate", queue="news")
    site.wait_note(retried, "run", count=4)
    for queue in ("news", ONE, TWO):
        site.wait_empty(queue)
    assert len(site.notes(result, "start")) == 2
    assert len(site.notes(retried, "run")) == 4
    assert result.get(timeout=WAIT)


def test_a_worker_that_is_away_for_a_moment_finds_its_copy(site: Site):
    two_workers(site)
    site.workers[1].kill()
    result = site.call("plain", "told", queue="news")
    site.wait_note(result, "plain")
    wait_until(lambda: site.stats(TWO).ready == 1, lambda: site.told(TWO))
    site.worker("-Q", "news", "-n", "w2@test", ready=False, broadcasts={"news": {}})
    site.wait_note(result, "plain", count=2)
    site.wait_empty(TWO)
    assert len(site.notes(result, "plain")) == 2


def test_no_copy_is_lost_when_children_die_while_they_give_them_out(site: Site):
    two_workers(site)
    site.open("gate")
    results = [site.call("holds", "gate", queue="news") for _ in range(100)]

    def told() -> set[tuple[str, str]]:
        return {(note["id"], note["hostname"]) for note in site.notes(what="start")}

    for seen in (10, 50, 90):
        wait_until(lambda seen=seen: len(told()) >= seen, site.told)
        for worker in site.workers:
            for child in worker.children():
                # It may be one of those that were killed before, and are reaped just now.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    expected = {(result.id, host) for result in results for host in ("w1@test", "w2@test")}
    wait_until(lambda: told() >= expected, site.told)
    for queue in ("news", ONE, TWO):
        site.wait_empty(queue)
    assert told() == expected


def test_the_queue_of_a_worker_that_is_gone_is_deleted(site: Site):
    two_workers(site, broadcasts={"news": {"expires": 2}}, worker_lease=2)
    site.workers[1].kill()
    first = site.call("plain", "told", queue="news")
    site.wait_note(first, "plain")
    broker = site.broker
    assert isinstance(broker, Broadcasting)
    wait_until(lambda: TWO not in [*broker.queues(), *broker.subscribers("news")], site.told)
    site.workers[0].wait_log(f"queue {TWO} was deleted, with its copies of what was sent to news")
    second = site.call("plain", "told", queue="news")
    site.wait_note(second, "plain")
    site.wait_empty(ONE)
    assert TWO not in broker.queues()
