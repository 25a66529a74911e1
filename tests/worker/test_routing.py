"""Workers of several queues, and what exchanges give them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness import WAIT, Site

from celeriac import Exchange, Queue


def test_every_worker_with_a_queue_on_a_fanout_exchange_gets_a_copy(site: Site):
    everybody = Exchange("everybody", "fanout")
    site.app.conf.task_queues = [Queue("one", everybody), Queue("two", everybody)]
    for queue in ("one", "two"):
        site.worker("-c", "1", "-Q", queue)
    result = site.call("holds", "gate", exchange="everybody")
    # Both run at the same time: neither has taken the other's.
    site.wait_note(result, "start", count=2)
    assert [site.stats(queue).running for queue in ("one", "two")] == [1, 1]
    site.open("gate")
    assert result.get(timeout=WAIT)
    site.wait_empty("one")
    site.wait_empty("two")


def ran(site: Site, count: int, *flags: str, **settings: Any) -> list[str]:
    """The queues of the first runs of a worker that found thirty messages in each of two, taking one at a time."""
    for queue in ("low", "high", "empty"):
        for _ in range(30 if queue != "empty" else 0):
            site.call("plain", queue, queue=queue)
    site.worker("-c", "1", *flags, worker_prefetch_multiplier=1, **settings)
    site.wait_note(None, "plain", count)
    return [note["value"] for note in site.notes(what="plain")[:count]]


def test_queues_with_weights_have_their_shares(site: Site):
    counts = Counter(ran(site, 40, "-Q", "empty:5,high:3,low:1"))
    # Thirty of the one to ten of the other, but for where in the round it began.
    assert 29 <= counts["high"] <= 30
    site.wait_empty("high")
    site.wait_empty("low")


def test_a_queue_of_a_strict_order_is_empty_before_the_next_gives_anything(site: Site):
    strictly = {"queue_order_strategy": "priority"}
    order = ran(site, 60, "-Q", "empty,high,low", broker_transport_options=strictly)
    assert order == ["high"] * 30 + ["low"] * 30
    assert "queues        empty, high, low (strictly: empty before high before low)" in site.workers[0].log()


def test_a_strategy_that_is_not_known_is_told_at_the_start(sqlite_site: Site):
    worker = sqlite_site.worker(ready=False, broker_transport_options={"queue_order_strategy": "prioriti"})
    worker.wait_log("not 'prioriti'")
    worker.wait_log("Did you mean 'priority'?")
    assert worker.process.wait(WAIT)
