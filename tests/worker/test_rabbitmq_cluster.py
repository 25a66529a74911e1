"""Workers and senders at a RabbitMQ cluster whose nodes are killed and started again, or hang, one at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Site, wait_until
from tests import rabbitmq
from tests.rabbitmq_clusters import RabbitCluster

from celeriac.exceptions import BrokerUnavailable

pytestmark = [*rabbitmq.MARKS, pytest.mark.private_rabbitmq, pytest.mark.timeout(400)]

#: Seconds within which workers and senders go on where two of three nodes live (P10), and more for machines under load.
BUDGET = 5.0 + 10.0
#: For so many seconds a node hangs: it is held to be dead after six at the earliest (`net_ticktime`).
HANGS = 4.5
#: Seconds for everything that was sent to end.
LONG = 60.0


class Load:
    """Sends tasks until its end, as a program that tries again until its task is taken on: every tenth is retried once,
    after a moment, the others are plain."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.sent: list[str] = []
        self.retried: list[str] = []
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over:
            number = len(self.sent)
            try:
                if number % 10:
                    result = self._site.send("plain", number)
                else:
                    result = self._site.send("succeeds_at", 1, 0.2)
                    self.retried.append(result.id)
            except BrokerUnavailable:
                continue
            self.sent.append(result.id)

    def stop(self) -> None:
        self._is_over = True
        self._thread.join()

    def runs(self) -> Counter[str]:
        """How often each task has run."""
        return Counter(note["id"] for note in self._site.notes())

    def left(self) -> set[str]:
        """What was sent and has not ended."""
        runs = self.runs()
        return {one for one in self.sent if runs[one] < 1 + (one in self.retried)}

    def doubles(self) -> int:
        """How many runs there were too many."""
        return sum(self.runs().values()) - len(self.sent) - len(self.retried)

    def go_on(self, count: int = 40) -> float:
        """Wait until so many more were sent, and as many have run; how many seconds that took."""
        began = time.monotonic()
        sent, run = len(self.sent), self.runs().total()
        wait_until(lambda: len(self.sent) > sent + count, self._site.told, LONG)
        wait_until(lambda: self.runs().total() > run + count, self._site.told, LONG)
        return time.monotonic() - began


@pytest.fixture
def site(rabbitmq_cluster: RabbitCluster, tmp_path: Path) -> Iterator[Site]:
    """A site whose messages are in the cluster, and whose results are in a file."""
    with rabbitmq_cluster.virtual_host() as host:
        url = rabbitmq_cluster.url(host)
        rabbitmq.make_chains(url)
        site = Site(tmp_path, url, **{**rabbitmq.settings(tmp_path), "broker_publish_timeout": 2.0})
        yield site
        site.close()


@pytest.fixture
def load(site: Site) -> Iterator[Load]:
    """Two workers that have work."""
    for _ in range(2):
        site.worker("-c", "2", worker_lease=6.0)
    load = Load(site)
    yield load
    load.stop()


def test_nothing_is_lost_where_one_node_after_the_other_is_killed(
    rabbitmq_cluster: RabbitCluster, site: Site, load: Load
):
    pauses: list[float] = []
    for number in (0, 1, 2, 1):
        load.go_on()
        rabbitmq_cluster.nodes[number].kill()
        pauses.append(load.go_on())
        rabbitmq_cluster.nodes[number].start()
        rabbitmq_cluster.wait_whole()
    load.go_on()
    load.stop()
    wait_until(lambda: not load.left(), lambda: f"{load.left()} in {site.told()}", LONG)
    assert max(pauses) < BUDGET, pauses
    # Of each kill, what a connection was just being given, or had ended.
    assert load.doubles() <= 40, (load.doubles(), len(load.sent))
    assert [worker.stop() for worker in site.workers] == [0, 0]


def test_nothing_is_lost_while_a_node_hangs(rabbitmq_cluster: RabbitCluster, site: Site, load: Load):
    """For less time than the others need to hold it to be dead."""
    pauses: list[float] = []
    for node in rabbitmq_cluster.nodes:
        load.go_on()
        with node.frozen():
            time.sleep(HANGS)
        pauses.append(load.go_on())
        rabbitmq_cluster.wait_whole()
    load.stop()
    wait_until(lambda: not load.left(), lambda: f"{load.left()} in {site.told()}", LONG)
    assert max(pauses) < BUDGET, pauses
    assert load.doubles() <= 40, (load.doubles(), len(load.sent))
    assert [worker.stop() for worker in site.workers] == [0, 0]
