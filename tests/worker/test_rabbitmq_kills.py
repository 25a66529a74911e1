"""A RabbitMQ server that is killed while workers and a sender are in the middle of everything, and started again."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Site, wait_until
from tests import rabbitmq
from tests.private_rabbitmq import PrivateRabbit

from celeriac.async_result import AsyncResult
from celeriac.exceptions import BrokerUnavailable

pytestmark = [pytest.mark.private_rabbitmq, pytest.mark.timeout(400)]

KILLS = 4


@pytest.fixture
def server(make_private_rabbit: Callable[[], PrivateRabbit]) -> PrivateRabbit:
    return make_private_rabbit()


class Sender(threading.Thread):
    """Sends on and on, as a program that tries again until its task is taken on."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self._is_over = threading.Event()
        #: What `delay` has returned for.
        self.sent: list[AsyncResult] = []

    def run(self) -> None:
        while not self._is_over.wait(0.01):
            with contextlib.suppress(BrokerUnavailable):
                self.sent.append(self._site.send("plain", len(self.sent)))

    def end(self) -> None:
        self._is_over.set()
        self.join()


def test_on_classic_queues_nothing_that_was_confirmed_is_lost(server: PrivateRabbit, tmp_path: Path):
    """What was on its way in the moment of a kill may run twice; nothing is left in the holding of a living child."""
    place = rabbitmq.with_prefix(server.url, "celeriac.", "classic")
    site = Site(tmp_path, place, **{**rabbitmq.settings(tmp_path), "broker_publish_timeout": 2.0})
    site.send("plain", -1)
    workers = [site.worker("-c", "2") for _ in range(2)]
    sender = Sender(site)
    sender.start()
    try:
        for _ in range(KILLS):
            before = len(site.notes())
            wait_until(lambda before=before: len(site.notes()) >= before + 100, site.told)
            server.close()
            server.start()
        sender.end()
        wait_until(
            lambda: {one["id"] for one in site.notes()} >= {one.id for one in sender.sent}, site.told, 60.0
        )
        wait_until(lambda: server.work().is_done, lambda: f"{server.work()}\n{site.told()}", 90.0)
        assert [worker.stop() for worker in workers] == [0, 0]
        runs = Counter(note["id"] for note in site.notes())
        assert sum(runs.values()) - len(runs) <= 10 * KILLS
        assert server.work().is_done
        assert site.stats().dead == 0
    finally:
        sender.end()
        site.close()
