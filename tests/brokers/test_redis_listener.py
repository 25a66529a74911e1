"""A listener on Redis outlives its server's absence, and says that it may have missed something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celeriac import brokers, clock
from celeriac.brokers import redis_listener
from celeriac.brokers.contract import Broker, Listener
from celeriac.exceptions import BrokerUnavailable
from tests.servers import PrivateRedis

NAME = "fleet"
SOON = 10.0


@pytest.fixture
def broker(private_redis: PrivateRedis) -> Iterator[Broker]:
    made = brokers.connect(private_redis.url, {"socket_timeout": 2.0})
    yield made
    made.close()


def hear(listener: Listener) -> list[tuple[str, bytes]]:
    """What comes next, however often the connection has to be made anew."""
    deadline = clock.monotonic() + SOON
    heard: list[tuple[str, bytes]] = []
    while not heard and clock.monotonic() < deadline:
        heard = listener.wait(SOON)
    return heard


def test_it_hears_again_after_the_server_was_away(broker: Broker, private_redis: PrivateRedis) -> None:
    listener = broker.listen([NAME])
    private_redis.kill()
    with pytest.raises(BrokerUnavailable):
        listener.wait(SOON)
    with pytest.raises(BrokerUnavailable):
        listener.wait(SOON)
    private_redis.start()
    assert listener.wait(0) == []
    assert broker.notify(NAME, b"back") == 1
    assert hear(listener) == [(NAME, b"back")]
    listener.close()


def test_one_made_while_the_server_is_away_says_so_first(broker: Broker, private_redis: PrivateRedis) -> None:
    private_redis.kill()
    listener = broker.listen([NAME])
    private_redis.start()
    with pytest.raises(BrokerUnavailable):
        listener.wait(SOON)
    assert listener.wait(0) == []
    assert broker.notify(NAME, b"here") == 1
    assert hear(listener) == [(NAME, b"here")]
    listener.close()


def test_a_server_that_has_gone_without_a_word_is_noticed(
    broker: Broker, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_listener, "SILENCE", 0.1)
    listener = broker.listen([NAME])
    # One that answers is only asked now and then.
    assert listener.wait(0.5) == []
    with private_redis.frozen(), pytest.raises(BrokerUnavailable, match=r"no answer within 2 s"):
        listener.wait(SOON)
    assert listener.wait(0) == []
    assert broker.notify(NAME, b"thawed") == 1
    assert hear(listener) == [(NAME, b"thawed")]
    listener.close()


def test_databases_of_a_server_do_not_hear_each_other(private_redis: PrivateRedis) -> None:
    """Channels are the server's, not a database's: workers of another application must not obey."""
    here, there = (
        brokers.connect(f"{private_redis.url.removesuffix('/0')}/{number}", {}) for number in (1, 2)
    )
    listener = here.listen([NAME])
    assert there.notify(NAME, b"not for you") == 0
    assert here.notify(NAME, b"for you") == 1
    assert hear(listener) == [(NAME, b"for you")]
    listener.close()
    here.close()
    there.close()
