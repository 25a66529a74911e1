"""Sending to a list of brokers, and moving messages between them, with Redis servers that are killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac import Celeriac, brokers, message
from celeriac.brokers import failover
from celeriac.brokers.abilities import Movable
from celeriac.brokers.contract import Broker, Outgoing, Revocation
from celeriac.brokers.failover import Failover
from celeriac.brokers.relay import SamePlace, TargetAway, relay
from celeriac.exceptions import BrokerUnavailable, QueueFull
from tests.servers import PrivateRedis

BATCH = [Outgoing("celery", b"x" * 40)]
#: Long enough for a try at each broker on a slow machine.
TIMEOUT = 6.0
Servers = list[PrivateRedis]


@pytest.fixture
def servers(make_private_redis: Callable[..., PrivateRedis]) -> Servers:
    return [make_private_redis(appendonly=True) for _ in range(3)]


@pytest.fixture
def make_sender(servers: Servers) -> Iterator[Callable[[Any], Failover]]:
    made: list[Failover] = []

    def make(strategy: Any = "round-robin") -> Failover:
        made.append(Failover([(server.url, {}) for server in servers], strategy))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


@pytest.fixture
def first_two(servers: Servers) -> Iterator[list[Broker]]:
    found = [brokers.connect(server.url) for server in servers[:2]]
    yield found
    for broker in found:
        broker.close()


def waiting(servers: Servers) -> list[int]:
    """How many messages wait at each."""
    found: list[int] = []
    for server in servers:
        broker = brokers.connect(server.url)
        found.append(broker.stats("celery").ready)
        broker.close()
    return found


def test_a_sender_stays_with_the_first_until_it_fails(servers: Servers, make_sender: Any) -> None:
    sender = make_sender()
    for _ in range(3):
        sender.send(BATCH, TIMEOUT)
    assert waiting(servers) == [3, 0, 0]
    servers[0].kill()
    for _ in range(3):
        sender.send(BATCH, TIMEOUT)
    servers[0].start()
    sender.send(BATCH, TIMEOUT)
    assert waiting(servers) == [3, 4, 0]
    # From the one that fails now it goes on in the list.
    servers[1].kill()
    sender.send(BATCH, TIMEOUT)
    assert waiting([servers[0], servers[2]]) == [3, 1]


def test_a_sender_returns_to_the_first_after_a_while(
    servers: Servers, make_sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "LOOK_BACK", 0.0)
    sender = make_sender()
    servers[0].kill()
    sender.send(BATCH, TIMEOUT)
    # It is still away: that costs a part of the time, and no message.
    sender.send(BATCH, TIMEOUT)
    assert waiting(servers[1:]) == [2, 0]
    servers[0].start()
    sender.send(BATCH, TIMEOUT)
    assert waiting(servers) == [1, 2, 0]


def test_without_any_broker_a_send_says_of_each_why(servers: Servers, make_sender: Any) -> None:
    for server in servers:
        server.kill()
    with pytest.raises(BrokerUnavailable, match="no broker of the list") as told:
        make_sender().send(BATCH, 1.0)
    assert all(str(server.port) in str(told.value) for server in servers)


def test_a_function_says_in_which_order_the_others_are_tried(servers: Servers, make_sender: Any) -> None:
    def backwards(urls: list[str]) -> Iterator[str]:
        while True:
            yield from reversed(urls)

    sender = make_sender(backwards)
    servers[0].kill()
    sender.send(BATCH, TIMEOUT)
    assert waiting(servers[1:]) == [0, 1]


def test_others_are_tried_at_random(servers: Servers, make_sender: Any) -> None:
    servers[0].kill()
    for _ in range(40):
        make_sender("shuffle").send(BATCH, TIMEOUT)
        if all(waiting(servers[1:])):
            return
    raise AssertionError("forty senders went to the same broker")


def test_a_full_queue_is_not_passed_over(servers: Servers, make_sender: Any) -> None:
    sender = make_sender()
    sender.send_limited(BATCH, {"celery": 1}, TIMEOUT)
    with pytest.raises(QueueFull):
        sender.send_limited(BATCH, {"celery": 1}, TIMEOUT)
    assert waiting(servers) == [1, 0, 0]


def test_messages_are_moved_with_what_is_revoked_of_them(servers: Servers, first_two: list[Broker]) -> None:
    target, source = first_two
    key = message.new_key()
    data = b"\x01" + key + b"x" * 20
    source.send([Outgoing("celery", data)], TIMEOUT)
    source.revoke("celery", [Revocation(message.new_key())], 60.0)
    crate = relay(source, target, "celery", 60.0)
    assert crate is not None
    assert [parcel.data for parcel in crate.parcels] == [data]
    assert relay(source, target, "celery", 60.0) is None
    assert waiting(servers[:2]) == [1, 0]
    assert target.revoked("celery") == source.revoked("celery") != []


def test_nothing_is_packed_for_a_target_that_is_away(servers: Servers, first_two: list[Broker]) -> None:
    target, source = first_two
    source.send(BATCH * 3, TIMEOUT)
    servers[0].kill()
    with pytest.raises(TargetAway):
        relay(source, target, "celery", 60.0)
    # Whoever takes there has them.
    assert waiting(servers[1:2]) == [3]


def test_what_was_packed_when_the_target_went_is_moved_once(
    servers: Servers, first_two: list[Broker]
) -> None:
    target, source = first_two
    source.send(BATCH * 3, TIMEOUT)
    assert isinstance(source, Movable)
    assert isinstance(target, Movable)
    # As one that was killed before it could say at the source that it is done.
    crate = source.pack("celery", target.place, 10)
    assert crate is not None
    assert target.unpack(crate)
    servers[0].kill()
    with pytest.raises(TargetAway):
        relay(source, target, "celery", 60.0)
    # Meanwhile more has come.
    source.send(BATCH, TIMEOUT)
    servers[0].start()
    while relay(source, target, "celery", 60.0):
        pass
    assert waiting(servers[:2]) == [4, 0]


def test_what_others_move_elsewhere_is_left_alone(servers: Servers, first_two: list[Broker]) -> None:
    target, source = first_two
    source.send(BATCH, TIMEOUT)
    assert source.pack("celery", "redis elsewhere:1/0", 10) is not None  # type: ignore[attr-defined]
    crate = relay(source, target, "celery", 60.0)
    assert crate is not None
    assert crate.target == "redis elsewhere:1/0"
    assert waiting(servers[:2]) == [0, 0]


def test_a_broker_with_two_names_keeps_its_messages(servers: Servers, first_two: list[Broker]) -> None:
    target, _ = first_two
    alias = brokers.connect(servers[0].url.replace("127.0.0.1", "localhost"))
    target.send(BATCH * 2, TIMEOUT)
    with pytest.raises(SamePlace, match="names it twice"):
        relay(alias, target, "celery", 60.0)
    assert waiting(servers[:1]) == [2]
    alias.close()


def test_control_uses_a_broker_that_answers_and_revokes_at_all(servers: Servers) -> None:
    urls = [server.url for server in servers[:2]]
    with Celeriac("x", broker=urls, backend="disabled://", set_as_current=False) as app:
        waits = [app.send_task("add", [1]) for _ in range(2)]
        servers[0].kill()
        assert app.control.ping(timeout=0.1) == []
        assert app.broker.place.endswith(f":{servers[1].port}/0")
        # What it could do is done, and what it could not is told.
        with pytest.raises(BrokerUnavailable, match="told to other brokers of the list, and not to one"):
            app.control.revoke(waits[0].id)
        servers[0].start()
        app.control.revoke([result.id for result in waits])
        there = brokers.connect(urls[0])
        consumer = there.consumer(["celery"], "me", lease=30.0, max_deliveries=3)
        assert [delivery.verdict for delivery in consumer.take(10, 0.0)] == ["revoked"]
        consumer.close()
        there.close()


def test_what_is_revoked_before_it_comes_is_revoked_at_each(servers: Servers) -> None:
    urls = [server.url for server in servers[:2]]
    with Celeriac("x", broker=urls, backend="disabled://", set_as_current=False) as app:
        key = message.new_key()
        app.control.revoke(message.id_of(key))
        for url in urls:
            broker = brokers.connect(url)
            assert [one.key for one in broker.revoked("celery")] == [key]
            broker.close()
