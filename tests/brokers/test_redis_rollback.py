"""A server that has lost its last second: in a power cut, or to a replica that took over with less than it had."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac import brokers
from celeriac.brokers.contract import Broker, Consumer, Delivery, Outgoing
from celeriac.exceptions import BrokerUnavailable
from celeriac.testing.stand import message, names, settle
from tests.servers import PrivateRedis

QUEUE = "letters"
SOON = 5.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateRedis]:
    folder = tmp_path / "data"
    folder.mkdir()
    made = PrivateRedis(folder, appendonly=True)
    yield made
    made.kill()


@pytest.fixture
def broker(server: PrivateRedis) -> Iterator[Broker]:
    made = brokers.connect(server.url)
    yield made
    made.close()


def take(consumer: Consumer) -> list[Delivery]:
    """What it takes; one that finds its connection gone connects again at the next call."""
    with contextlib.suppress(BrokerUnavailable):
        return consumer.take(1, SOON)
    return consumer.take(1, SOON)


def test_an_end_from_before_ends_no_other_delivery(server: PrivateRedis, broker: Broker, tmp_path: Path):
    broker.send([Outgoing(QUEUE, message(name)) for name in ("first", "second")], SOON)
    consumer = broker.consumer([QUEUE], "owner", lease=60.0, max_deliveries=3)
    assert names(take(consumer)) == ["first"]
    server.kill()
    shutil.copytree(server.directory, tmp_path / "a second ago")
    server.start()
    [second] = take(consumer)

    server.kill()
    shutil.rmtree(server.directory)
    shutil.copytree(tmp_path / "a second ago", server.directory)
    server.start()
    broker.send([Outgoing(QUEUE, message("urgent"), 9)], SOON)
    [urgent] = take(consumer)
    assert names([second, urgent]) == ["second", "urgent"]
    assert settle(consumer, [second]) == [second]
    assert settle(consumer, [urgent]) == []
    assert names(take(consumer)) == ["second"]
    consumer.close()
