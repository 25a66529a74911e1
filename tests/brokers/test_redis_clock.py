"""A machine whose clock is wrong: its delays are as long as it asked for; the server reckons from when it hears."""

from __future__ import annotations

import time

import pytest

from celeriac import brokers, clock
from celeriac.brokers.contract import Outgoing, PutBack, Replace, Settlement
from celeriac.testing.stand import message

QUEUE = "letters"


@pytest.mark.parametrize("offset", [-3600.0, 3600.0])
def test_a_wrong_clock_neither_hastens_nor_delays(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    monkeypatch.setattr(clock, "now", lambda: time.time() + offset)
    broker = brokers.connect(redis_url, {})
    consumer = broker.consumer([QUEUE], "me", lease=30.0, max_deliveries=3)
    data = message("a")
    broker.send([Outgoing(QUEUE, data, due_at=clock.now() + 0.8)], 5.0)
    assert consumer.take(1, 0.0) == []
    [delivery] = consumer.take(1, 5.0)
    for action in (
        lambda: Replace(Outgoing(QUEUE, data, due_at=clock.now() + 0.8)),
        lambda: PutBack(data, clock.now() + 0.8),
    ):
        consumer.settle([Settlement(delivery, action())])
        assert consumer.take(1, 0.0) == []
        [delivery] = consumer.take(1, 5.0)
    consumer.close()
    broker.close()
