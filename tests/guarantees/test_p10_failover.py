"""P10 with sentinels and in a cluster: a replica takes over from the primary, and workers go on with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import wait_until

from celeriac.async_result import AsyncResult
from celeriac.exceptions import BrokerUnavailable, ResultStoreUnavailable
from tests.clusters import cluster
from tests.guarantees.ground import Ground
from tests.sentinels import sentinels

#: Keys with the tags of the queue that tasks go to, and of results.
QUEUE, RECORDS = "{celery}", "{records}"


@pytest.mark.timeout(180)
def test_p10_a_failover_under_load_loses_nothing_that_was_replicated(tmp_path: Path):
    with sentinels(tmp_path) as servers:
        fail_over(tmp_path, f"{servers.url}?wait_replicas=1", servers.primary.kill, servers.wait_for_failover)


@pytest.mark.timeout(180)
def test_p10_a_failover_in_a_cluster_loses_nothing_that_was_replicated(tmp_path: Path):
    """Who has the queue fails; of its two replicas one takes over, and one is left to be waited for."""
    with cluster(tmp_path, {QUEUE: 2}) as nodes:
        primary = nodes.primary_of(QUEUE)
        url = f"{nodes.url}?wait_replicas=1"
        fail_over(tmp_path, url, lambda: nodes.fail(primary), lambda: nodes.wait_for_failover(primary))


@pytest.mark.timeout(180)
def test_p10_workers_wait_in_a_cluster_for_who_takes_results_over(tmp_path: Path):
    with cluster(tmp_path, {RECORDS: 1}) as nodes:
        primary = nodes.primary_of(RECORDS)
        assert primary is not nodes.primary_of(QUEUE)
        fail_over(tmp_path, nodes.url, lambda: nodes.fail(primary), lambda: nodes.wait_for_failover(primary))


def fail_over(
    tmp_path: Path, url: str, kill: Callable[[], None], wait_for_failover: Callable[[], None]
) -> None:
    """Kill a primary while a worker runs tasks and a sender goes on, and see that all are run."""
    site = tmp_path / "site"
    site.mkdir()
    ground = Ground(site, url)
    try:
        worker = ground.worker("-c", "2")
        held = ground.send("holds", "gate")
        ground.wait_note(held, "start")
        sent: list[AsyncResult] = []

        def send(count: int) -> None:
            """As a program that tries again until its task is taken on."""
            while len(sent) < count:
                try:
                    sent.append(ground.send("plain", len(sent)))
                except BrokerUnavailable:
                    continue

        def is_stored(result: AsyncResult) -> bool:
            try:
                return result.ready()
            except ResultStoreUnavailable:
                return False

        send(150)
        kill()
        send(300)
        wait_for_failover()
        ground.open("gate")
        wait_until(
            lambda: {note["id"] for note in ground.notes(what="plain")} >= {result.id for result in sent},
            ground.told,
        )
        wait_until(lambda: is_stored(held), ground.told)
        # Its lease outlives the failover: nobody else was given what it runs.
        assert ground.runs(held) == 1
        assert worker.stop() == 0
    finally:
        ground.close()
