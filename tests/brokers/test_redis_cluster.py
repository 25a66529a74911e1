"""The Redis broker in a cluster keeps the contract, spreads queues over the nodes, and follows slots that move."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from celeriac import brokers, clock
from celeriac.brokers.contract import Ack, Broker, Delivery, Outgoing, Replace, Settlement
from celeriac.drivers.redis_cluster import slot_of
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.testing import BrokerContract
from celeriac.testing.broker_broadcasts import Broadcasts
from celeriac.testing.broker_moving import Moving, SearchableMoving
from celeriac.testing.broker_room import Room, SearchableRoom
from celeriac.testing.broker_searching import Searching
from celeriac.testing.stand import message, names, until
from tests.clusters import Cluster, cluster

SOON = 5.0

#: Its nodes take their time to find each other.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, whom nobody harms."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def url(nodes: Cluster) -> str:
    """With a prefix of this test's own."""
    return f"{nodes.url}?prefix={secrets.token_hex(4)}:"


@pytest.fixture
def broker(url: str) -> Iterator[Broker]:
    made = brokers.connect(url)
    yield made
    made.close()


class TestRedisCluster(BrokerContract, Room, SearchableRoom, Searching, Moving, SearchableMoving, Broadcasts):
    @pytest.fixture
    def make_broker(self, url: str) -> Callable[[], Broker]:
        return lambda: brokers.connect(url)


#: Queues whose slots are on three nodes, whatever the prefix.
QUEUES = ["a", "b", "c"]


def test_queues_are_on_different_nodes(nodes: Cluster) -> None:
    assert len({nodes.primary_of(f"{{{queue}}}").port for queue in QUEUES}) == 3


def test_one_consumer_takes_from_every_node_and_is_woken_by_each(
    nodes: Cluster, url: str, broker: Broker
) -> None:
    prefix = url.partition("prefix=")[2]
    # With so many it looks by itself every half a minute.
    queues = QUEUES + [f"{number}" for number in range(21)]
    consumer = broker.consumer(queues, "me", lease=60.0, max_deliveries=3)
    with ThreadPoolExecutor(1) as thread:
        for queue in QUEUES:
            taking = thread.submit(consumer.take, 10, 25.0)
            for last in queues:
                until(partial(waits, nodes, f"{prefix}{{{last}}}:i"), f"it waits for {last}")
            sent_at = clock.monotonic()
            broker.send([Outgoing(queue, message(queue))], SOON)
            [taken] = taking.result()
            assert (taken.queue, names([taken])) == (queue, [queue])
            assert clock.monotonic() < sent_at + 15
            assert consumer.settle([Settlement(taken, Ack())]) == []
    consumer.close()


def waits(nodes: Cluster, bench: str) -> bool:
    with nodes.primary_of(bench).client() as client:
        return bool(client.call("SCARD", bench))


def test_follow_ups_come_to_queues_of_other_nodes(broker: Broker) -> None:
    broker.send([Outgoing("a", message("first")), Outgoing("a", message("second"))], SOON)
    consumer = broker.consumer(["a"], "me", lease=30.0, max_deliveries=3)
    first, second = consumer.take(10, SOON)
    sends = [Outgoing(queue, message(f"to {queue}")) for queue in QUEUES]
    settlements = [
        Settlement(first, Ack(), sends=sends),
        Settlement(second, Replace(Outgoing("b", message("instead")))),
    ]
    assert consumer.settle(settlements) == []
    # As after an answer that was lost: nothing comes twice.
    assert consumer.settle(settlements) == [first, second]
    consumer.close()
    assert broker.queues() == QUEUES
    found = {queue: waiting(broker, queue) for queue in QUEUES}
    assert found == {"a": ["to a"], "b": ["to b", "instead"], "c": ["to c"]}


def test_a_settlement_that_broke_off_behind_its_follow_ups_is_completed(broker: Broker) -> None:
    broker.send([Outgoing("a", message("first"))], SOON)
    consumer = broker.consumer(["a"], "me", lease=30.0, max_deliveries=3)
    [delivery] = consumer.take(10, SOON)
    settlement = Settlement(delivery, Ack(), sends=[Outgoing("b", message("next"))])
    broker.pause("b")
    for _ in range(2):
        consumer._follow("a", [settlement])  # pyright: ignore
    assert consumer.settle([settlement]) == []
    broker.resume("b")
    assert waiting(broker, "b") == ["next"]
    assert broker.stats("a").running == 0
    consumer.close()


def waiting(broker: Broker, queue: str) -> list[str]:
    """What is in a queue; it is empty then."""
    consumer = broker.consumer([queue], secrets.token_hex(4), lease=30.0, max_deliveries=3)
    taken = consumer.take(100, 0.0)
    consumer.settle([Settlement(one, Ack()) for one in taken])
    consumer.close()
    return names(taken)


def test_a_queue_moves_to_another_node_under_those_who_use_it(nodes: Cluster, broker: Broker) -> None:
    queue = secrets.token_hex(4)
    consumer = broker.consumer([queue], "me", lease=30.0, max_deliveries=3)
    broker.send([Outgoing(queue, message("one")), Outgoing(queue, message("two"))], SOON)
    [one] = consumer.take(1, SOON)
    with nodes.moving(f"{{{queue}}}"):
        # Nothing is stored anywhere but where the queue is.
        with pytest.raises(BrokerUnavailable):
            broker.send([Outgoing(queue, message("never"))], 0.5)
        with pytest.raises(BrokerUnavailable, match="ASK"):
            consumer.take(1, 0.0)
    broker.send([Outgoing(queue, message("three"))], SOON)
    assert patiently(lambda: consumer.settle([Settlement(one, Ack())])) == []
    assert names(patiently(lambda: consumer.take(10, SOON))) == ["two", "three"]
    consumer.close()


def patiently(ask: Callable[[], list[Delivery]]) -> list[Delivery]:
    """What is answered as soon as it is known where."""
    answers: list[list[Delivery]] = []

    def is_answered() -> bool:
        try:
            answers.append(ask())
        except BrokerUnavailable:
            return False
        return True

    until(is_answered, "an answer")
    return answers[0]


@pytest.mark.parametrize(
    ("key", "slot"),
    [("123456789", 12739), ("{user1000}.following", 3443), ("foo{}{bar}", 8363), ("foo{{bar}}", 4015)],
)
def test_slots_are_those_of_the_specification(key: str, slot: int) -> None:
    assert slot_of(key) == slot


def test_a_url_names_no_other_database() -> None:
    assert brokers.connect("redis+cluster://a:1,b/0").place == "redis cluster a:1,b:6379/0"
    with pytest.raises(ImproperlyConfigured, match="a cluster has one database only"):
        brokers.connect("redis+cluster://a/1")


def test_a_node_that_is_meant_alone_says_how_to_mean_the_cluster(nodes: Cluster) -> None:
    broker = brokers.connect(nodes.primaries[0].url)
    elsewhere = next(queue for queue in QUEUES if nodes.primary_of(f"{{{queue}}}") is not nodes.primaries[0])
    with pytest.raises(Exception, match=r"write redis\+cluster:// in the URL"):
        broker.stats(elsewhere)
    broker.close()
