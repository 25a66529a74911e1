"""Connections to a RabbitMQ server: what is refused and why, answers that are lost, queues that somebody deletes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from celeriac import brokers, clock, urls
from celeriac.brokers.contract import Ack, Broker, Outgoing, Settlement
from celeriac.brokers.rabbitmq_names import Names
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import Address
from celeriac.exceptions import BrokerRefused, BrokerUnavailable, ImproperlyConfigured
from celeriac.testing.stand import message, names
from tests import rabbitmq
from tests.brokers.lost_answers import taken_past_a_lost_answer
from tests.chaos.proxy import Network, Proxy

pytestmark = rabbitmq.MARKS

QUEUE = "letters"
SOON = 10.0


@pytest.fixture(params=["rabbitmq_place", "rabbitmq_classic_place"], ids=["quorum", "classic"])
def place(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def way(place: str) -> Iterator[Proxy]:
    """The network between somebody and the server."""
    with Network() as network:
        yield network.proxy(urls.parse(place).port or 5672)


class Ends:
    """Brokers at one place: directly, and behind the network."""

    def __init__(self, place: str, way: Proxy) -> None:
        port = urls.parse(place).port or 5672
        self.here = brokers.connect(place)
        self.there = brokers.connect(place.replace(f":{port}/", f":{way.port}/"), {"timeout": 1.0})


@pytest.fixture
def ends(place: str, way: Proxy) -> Iterator[Ends]:
    ends = Ends(place, way)
    yield ends
    ends.here.close()
    ends.there.close()


def send(broker: Broker, count: int, queue: str = QUEUE) -> None:
    broker.send([Outgoing(queue, message(str(number))) for number in range(count)], SOON)


@pytest.mark.parametrize("mode", ["cut", "half-open"])
def test_what_a_lost_answer_took_comes_again(ends: Ends, way: Proxy, mode: str) -> None:
    send(ends.here, 10)
    consumer = ends.there.consumer([QUEUE], "owner", lease=60.0, max_deliveries=3)
    assert names(taken_past_a_lost_answer(consumer, way, mode)) == [str(number) for number in range(10)]
    consumer.close()


@pytest.mark.parametrize("spare", range(6))
def test_what_was_moved_when_an_answer_was_lost_comes_again(ends: Ends, way: Proxy, spare: int) -> None:
    """A take has several answers: one of them is cut off."""
    send(ends.here, 10)
    consumer = ends.there.consumer([QUEUE], "owner", lease=60.0, max_deliveries=3)
    taken = consumer.take(2, SOON)
    way.set_mode("cut", spare)
    with contextlib.suppress(BrokerUnavailable):
        taken += consumer.take(3, 0.0)
    way.set_mode("open")
    while batch := consumer.take(100, 1.0):
        taken += batch
    # On classic queues what was moved is confirmed before it is acknowledged, and may be there twice.
    assert set(names(taken)) == {str(number) for number in range(10)}
    assert consumer.settle([Settlement(one, Ack()) for one in taken]) == []
    consumer.close()
    assert ends.here.stats(QUEUE).ready == 0


@pytest.mark.parametrize("mode", ["cut", "half-open"])
def test_a_settlement_whose_answer_is_lost_may_be_repeated(ends: Ends, way: Proxy, mode: str) -> None:
    send(ends.here, 1)
    consumer = ends.there.consumer([QUEUE], "owner", lease=60.0, max_deliveries=3)
    [delivery] = consumer.take(1, SOON)
    settlement = Settlement(delivery, Ack(), [Outgoing("after", message("follow-up"))])
    way.set_mode(mode)
    with pytest.raises(BrokerUnavailable):
        consumer.settle([settlement])
    way.set_mode("open")
    consumer.settle([settlement])
    consumer.close()
    assert ends.here.stats(QUEUE).ready == 0
    # Where publications are confirmed first, on classic queues, they may be repeated.
    assert ends.here.stats("after").ready in (1, 2)


def test_a_send_that_is_not_confirmed_raises_in_time(ends: Ends, way: Proxy) -> None:
    send(ends.there, 1)
    for mode in ("hold", "refuse"):
        way.set_mode(mode)
        with pytest.raises(BrokerUnavailable, match=r"not stored within 0\.5 s"):
            ends.there.send([Outgoing(QUEUE, message("x"))], 0.5)
    way.set_mode("open")
    send(ends.there, 1)
    assert ends.here.stats(QUEUE).ready >= 2


def test_a_queue_that_somebody_deletes_is_made_again(place: str) -> None:
    broker = brokers.connect(place)
    send(broker, 1)
    address = Address(urls.parse(place), {})
    connection = Connection(address, SOON)
    with connection.borrowed() as channel:
        channel.delete(Names(address.prefix).part(QUEUE, ""))
        channel.gather()
    connection.close()
    send(broker, 3)
    consumer = broker.consumer([QUEUE], "owner", lease=60.0, max_deliveries=3)
    assert names(consumer.take(10, SOON)) == ["0", "1", "2"]
    consumer.close()
    broker.close()


def test_who_may_not_come_in_is_told_at_once(rabbitmq_host: str) -> None:
    parsed = urls.parse(rabbitmq_host)
    at = f"{parsed.host}:{parsed.port or 5672}"
    for url, said in (
        (f"amqp://nobody:wrong@{at}{parsed.path}", "the user name or the password"),
        (f"amqp://{parsed.username}:{parsed.password}@{at}/no-such-place", "add_vhost"),
    ):
        began = clock.monotonic()
        with pytest.raises(BrokerRefused, match=said):
            brokers.connect(url).send([Outgoing(QUEUE, message("x"))], SOON)
        assert clock.monotonic() - began < SOON


def of_hosts(place: str, *ports: int) -> str:
    """The same for a URL that names these ports of this machine, and then the server's."""
    at = f"@127.0.0.1:{urls.parse(place).port or 5672}/"
    assert at in place
    return place.replace(at, f"@{','.join(f'127.0.0.1:{port}' for port in ports)},{at[1:]}")


def test_of_several_hosts_those_that_are_dead_or_hang_are_passed_over(
    rabbitmq_place: str, closed_port: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        place = of_hosts(rabbitmq_place, closed_port, hanging.getsockname()[1])
        # Each broker begins at another host.
        for number in range(6):
            with contextlib.closing(brokers.connect(place)) as broker:
                began = clock.monotonic()
                send(broker, 1)
                consumer = broker.consumer([QUEUE], f"owner-{number}", lease=60.0, max_deliveries=3)
                taken = consumer.take(1, SOON)
                assert consumer.settle([Settlement(one, Ack()) for one in taken]) == []
                consumer.close()
                assert len(taken) == 1
                assert clock.monotonic() - began < SOON


def test_a_host_that_failed_is_not_the_next_choice(closed_port: int) -> None:
    address = Address(urls.parse(f"amqp://one:{closed_port},two:{closed_port},three:{closed_port}"), {})
    bad = address.order()[0]
    address.note(bad, answered=False)
    assert {address.order()[-1] for _ in range(20)} == {bad}
    address.note(bad, answered=True)
    assert {address.order()[-1] for _ in range(200)} == set(address.hosts)


def test_where_no_host_answers_each_is_told_of(rabbitmq_place: str, closed_port: int) -> None:
    place = of_hosts(rabbitmq_place, closed_port)
    own = f"127.0.0.1:{urls.parse(rabbitmq_place).port or 5672}"
    with contextlib.closing(brokers.connect(place.replace(own, f"127.0.0.1:{closed_port}"))) as broker:
        began = clock.monotonic()
        told = rf"not stored within 0\.5 s: .*(127\.0\.0\.1:{closed_port}: .*){{2}}"
        with pytest.raises(BrokerUnavailable, match=told):
            broker.send([Outgoing(QUEUE, message("x"))], 0.5)
        assert clock.monotonic() - began < SOON


def test_a_wrong_password_is_told_by_the_first_host_that_answers(
    rabbitmq_host: str, closed_port: int
) -> None:
    parsed = urls.parse(rabbitmq_host)
    place = f"amqp://nobody:wrong@127.0.0.1:{closed_port},{parsed.host}:{parsed.port or 5672}{parsed.path}"
    with pytest.raises(BrokerRefused, match="the user name or the password"):
        brokers.connect(place).send([Outgoing(QUEUE, message("x"))], SOON)


def test_misspelt_options_are_told_of() -> None:
    with pytest.raises(ImproperlyConfigured, match="'queue_type'"):
        brokers.connect("amqp://localhost//?queue_typ=classic")
    with pytest.raises(ImproperlyConfigured, match="'quorum' or 'classic'"):
        brokers.connect("amqp://localhost//?queue_type=lazy")
