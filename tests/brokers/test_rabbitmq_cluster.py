"""The RabbitMQ broker keeps the contract on a cluster of three nodes, each connection to any of them."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker, Outgoing, Replace, Settlement
from celeriac.exceptions import BrokerUnavailable
from celeriac.testing import BrokerContract
from celeriac.testing.broker_broadcasts import Broadcasts
from celeriac.testing.broker_moving import Moving
from celeriac.testing.broker_room import Room
from celeriac.testing.stand import LONG, SOON, message, name_of, pause, until
from tests import rabbitmq
from tests.rabbitmq_clusters import RabbitCluster

pytestmark = [*rabbitmq.MARKS, pytest.mark.private_rabbitmq, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def host(rabbitmq_nodes: RabbitCluster) -> Iterator[str]:
    """The name of a virtual host."""
    with rabbitmq_nodes.virtual_host() as host:
        rabbitmq.make_chains(rabbitmq_nodes.url(host))
        yield host


class TestRabbitCluster(BrokerContract, Broadcasts, Moving, Room):
    @pytest.fixture
    def make_broker(self, rabbitmq_nodes: RabbitCluster, host: str) -> Callable[[], Broker]:
        """Each connection is to another node, as it happens."""
        prefix = f"celeriac-test-{secrets.token_hex(6)}."
        return lambda: connect(rabbitmq.with_prefix(rabbitmq_nodes.url(host), prefix, "quorum"))


class Mover:
    """Takes messages of two queues and retries each into the other one, by a single node, in a thread."""

    def __init__(self, url: str, owner: str) -> None:
        self.moved = 0
        self._broker = connect(url, {"timeout": SOON})
        self._consumer = self._broker.consumer(["one", "two"], owner, lease=LONG, max_deliveries=3)
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over:
            try:
                taken = self._consumer.take(40, 0.2)
                self._consumer.settle(
                    [
                        Settlement(one, Replace(Outgoing("two" if one.queue == "one" else "one", one.data)))
                        for one in taken
                    ]
                )
                self.moved += len(taken)
            except BrokerUnavailable:
                pause(0.1)

    def stop(self) -> None:
        self._is_over = True
        self._thread.join()
        self._consumer.close()
        self._broker.close()


def test_nothing_is_lost_that_a_node_was_moving_as_it_died(
    rabbitmq_cluster: RabbitCluster, host: str
) -> None:
    """The queues are led by other nodes; large messages are on their way there for long."""
    own, *others = [f"amqp://guest:guest@127.0.0.1:{node.port}/{host}" for node in rabbitmq_cluster.nodes]
    everything = {str(number) for number in range(60)}
    pad = bytes(400_000)
    for queue, url in zip(("one", "two"), others, strict=True):
        with contextlib.closing(connect(url)) as broker:
            broker.send([Outgoing(queue, message(f"warm-{queue}"))], LONG)
            for name in everything if queue == "one" else ():
                broker.send([Outgoing(queue, message(f"{name} ") + pad)], LONG)
    movers = [Mover(f"{own}?cluster=true", f"owner-{number}") for number in range(2)]
    try:
        for _ in range(4):
            for mover in movers:
                before = mover.moved
                until(lambda mover=mover, before=before: mover.moved > before + 20, "it moves")
            rabbitmq_cluster.nodes[0].kill()
            rabbitmq_cluster.nodes[0].start()
            rabbitmq_cluster.wait_whole()
    finally:
        for mover in movers:
            mover.stop()
    left: set[str] = set()
    with contextlib.closing(connect(rabbitmq_cluster.url(host))) as broker:
        consumer = broker.consumer(["one", "two"], "heir", lease=LONG, max_deliveries=3)
        while taken := consumer.take(20, 1.0):
            left |= {name_of(one.data).partition(" ")[0] for one in taken}
        consumer.close()
    assert everything - left == set()
