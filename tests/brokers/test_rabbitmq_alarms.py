"""Sends to a RabbitMQ server that is short of memory or disk: they fail in time, or wait for the end of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from celeriac import brokers
from celeriac.brokers.contract import Broker, Outgoing
from celeriac.exceptions import BrokerUnavailable
from celeriac.testing.stand import message
from tests.private_rabbitmq import PrivateRabbit
from tests.rabbitmq import with_prefix

pytestmark = [pytest.mark.private_rabbitmq, pytest.mark.timeout(240)]

QUEUE = "letters"
#: Seconds that a send may take, what a busy machine adds to them, and what is enough for all else.
TIMEOUT, SLACK, SOON = 0.4, 1.0, 20.0


@pytest.fixture(params=["quorum", "classic"])
def place(request: pytest.FixtureRequest, rabbitmq_server: PrivateRabbit) -> Iterator[str]:
    with rabbitmq_server.virtual_host() as url:
        yield with_prefix(url, "celeriac.", request.param)


def send(broker: Broker, name: str = "one", timeout: float = TIMEOUT) -> None:
    broker.send([Outgoing(QUEUE, message(name))], timeout)


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_a_send_fails_in_time_says_why_and_is_not_stored(
    place: str, rabbitmq_server: PrivateRabbit, what: str
) -> None:
    """The last as the first, of a new process as of an old one; and the server keeps no connections."""
    with contextlib.closing(brokers.connect(place)) as old, contextlib.closing(brokers.connect(place)) as new:
        send(old, timeout=SOON)
        assert old.stats(QUEUE).ready == 1
        # Longer ago than what is assumed to go on.
        until = time.monotonic() + 1.1
        while time.monotonic() < until:
            time.sleep(0.05)
        before = len(rabbitmq_server.clients())
        with rabbitmq_server.short_of(what):
            for _ in range(5):
                for broker in (old, new):
                    started = time.monotonic()
                    with pytest.raises(BrokerUnavailable, match=f"because it is short of {what}.*alarms"):
                        send(broker)
                    assert time.monotonic() - started < TIMEOUT + SLACK
            with pytest.raises(BrokerUnavailable, match=f"because it is short of {what}"):
                old.stats(QUEUE)
            assert len(rabbitmq_server.clients()) <= before + 2
        send(old, timeout=SOON)
        send(new, timeout=SOON)
        assert old.stats(QUEUE).ready == 3


@pytest.mark.parametrize("pause", [0.0, 1.1])
def test_a_send_waits_for_the_end_of_an_alarm_and_is_stored_once(
    place: str, rabbitmq_server: PrivateRabbit, pause: float
) -> None:
    with contextlib.closing(brokers.connect(place)) as broker, ThreadPoolExecutor(1) as other:
        send(broker, timeout=SOON)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            time.sleep(0.05)
        with rabbitmq_server.short_of("memory"):
            sent = other.submit(send, broker, "two", SOON)
            with pytest.raises(TimeoutError):
                sent.result(1.0)
        sent.result(SOON)
        assert broker.stats(QUEUE).ready == 2
