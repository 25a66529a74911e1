"""The Redis broker behind sentinels keeps the contract, finds the new primary, and says what is wrong with its URL."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from celeriac import brokers
from celeriac.brokers.contract import Broker, Outgoing
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.testing import BrokerContract
from celeriac.testing.stand import message, until
from tests.sentinels import NAME, Sentinels, sentinels

QUEUE = "letters"
SOON = 5.0

pytestmark = pytest.mark.xdist_group("sentinels")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    """Servers whose primary nobody harms."""
    with sentinels(tmp_path_factory.mktemp("sentinels")) as servers:
        yield servers


class TestRedisBehindSentinels(BrokerContract):
    @pytest.fixture
    def make_broker(self, watched: Sentinels) -> Callable[[], Broker]:
        prefix = secrets.token_hex(4)
        return lambda: brokers.connect(f"{watched.url}?prefix={prefix}")


def test_a_send_waits_for_as_many_replicas_as_are_wished(watched: Sentinels):
    for wanted in (1, 2):
        broker = brokers.connect(f"{watched.url}?wait_replicas={wanted}")
        broker.send([Outgoing(QUEUE, message("a"))], SOON)
        broker.close()
    broker = brokers.connect(f"{watched.url}?wait_replicas=3")
    with pytest.raises(BrokerUnavailable, match="2 replicas have the message, wait_replicas is 3"):
        broker.send([Outgoing(QUEUE, message("b"))], 0.5)
    broker.close()


def test_what_was_sent_waits_at_the_new_primary(tmp_path_factory: pytest.TempPathFactory):
    with sentinels(tmp_path_factory.mktemp("failover")) as servers:
        broker = brokers.connect(f"{servers.url}?wait_replicas=1")
        broker.send([Outgoing(QUEUE, message(str(n))) for n in range(100)], SOON)
        servers.primary.kill()
        servers.wait_for_failover()
        until(lambda: is_there(broker), "the new primary answers")
        broker.send([Outgoing(QUEUE, message("after"))], SOON)
        assert broker.stats(QUEUE).ready == 101
        broker.close()


def is_there(broker: Broker) -> bool:
    try:
        broker.stats(QUEUE)
    except BrokerUnavailable:
        return False
    return True


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis+sentinel://a:1,b:2/orders/3", "redis orders (sentinels a:1,b:2)/3"),
        ("redis+sentinel://a", "redis mymaster (sentinels a:26379)/0"),
        ("redis+sentinel://a/orders", "redis orders (sentinels a:26379)/0"),
        ("sentinel://a:1/2?master_name=orders", "redis orders (sentinels a:1)/2"),
    ],
)
def test_the_url_names_sentinels_primary_and_database(url: str, place: str):
    assert brokers.connect(url).place == place


def test_a_path_with_more_in_it_is_refused():
    with pytest.raises(ImproperlyConfigured, match="/NAME/DATABASE"):
        brokers.connect("redis+sentinel://a/orders/0/more")


def test_who_knows_no_such_primary_is_named(watched: Sentinels):
    broker = brokers.connect(watched.url.replace(NAME, "others"))
    with pytest.raises(
        BrokerUnavailable, match=r"no sentinel tells where 'others' is: .* watches nothing of that name"
    ):
        broker.stats(QUEUE)
