"""Transient messages in PostgreSQL: not in the server's log, wherever they go, and gone when it crashes."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from celeriac import brokers, clock, urls
from celeriac.brokers.abilities import Movable, Transactional
from celeriac.brokers.contract import Broker, Bury, Consumer, Outgoing, PutBack, Release, Replace, Revocation
from celeriac.exceptions import BrokerUnavailable
from celeriac.message import KEY, Message, Options, encode, new_key
from celeriac.testing.stand import SHORT, casualty_of, message, names, settle
from tests.postgres import PrivatePostgres

QUEUE = "fleeting"
SOON = 10.0
LATER = 300.0


def send(broker: Broker, *texts: str, transient: bool, due_in: float | None = None) -> None:
    due_at = None if due_in is None else clock.now() + due_in
    broker.send([Outgoing(QUEUE, message(text), 0, due_at, transient) for text in texts], SOON)


def consumer_of(broker: Broker, owner: str) -> Consumer:
    return broker.consumer([QUEUE], owner, lease=60.0, max_deliveries=3)


def counts(broker: Broker) -> tuple[int, int | None, int | None]:
    stats = broker.stats(QUEUE)
    return stats.ready, stats.delayed, stats.running


def test_after_a_crash_of_the_server_the_durable_ones_are_there_and_the_others_are_gone(
    private_postgres: PrivatePostgres,
) -> None:
    broker = brokers.connect(private_postgres.url)
    consumer = consumer_of(broker, "first")
    for transient in (True, False):
        send(broker, f"held {transient}", transient=transient)
    held = consumer.take(10, SOON)
    for transient in (True, False):
        send(broker, f"ready {transient}", "more", transient=transient)
        send(broker, f"late {transient}", transient=transient, due_in=LATER)
    broker.renew([QUEUE], ["first"], 60.0, 3)
    assert counts(broker) == (4, 2, 2)
    private_postgres.kill()
    private_postgres.start()
    broker.close()
    assert counts(broker) == (2, 1, 1)
    lost, kept = held
    assert names(held) == ["held True", "held False"]
    with pytest.raises(BrokerUnavailable):
        settle(consumer, held)
    assert settle(consumer, held) == [lost]
    assert consumer.confirm([lost, kept]) == [lost, kept]
    assert names(consumer.take(10, SOON)) == ["ready False", "more"]
    send(broker, "after", transient=True)
    assert names(consumer.take(10, SOON)) == ["after"]
    consumer.close()
    broker.close()


def test_an_orderly_restart_loses_none(private_postgres: PrivatePostgres) -> None:
    broker = brokers.connect(private_postgres.url)
    send(broker, "a", transient=True)
    broker.close()
    private_postgres.stop()
    private_postgres.start()
    assert counts(broker) == (1, 0, 0)
    broker.close()


class Tables:
    """How many rows are in the tables that the server's log covers, and in the others."""

    def __init__(self, url: str) -> None:
        self._schema = urls.parse(url).query["schema"]
        self._connection = psycopg.connect(url.partition("?")[0], autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def logged(self) -> dict[str, int]:
        """In the tables of the log, but for empty ones."""
        found = {
            name: self._count(f"ONLY {{}}.{name}") for name in ("ready", "delayed", "held", "dead", "parcels")
        }
        return {name: count for name, count in found.items() if count}

    def transient(self) -> dict[str, int]:
        """In the others, by the names of their parents."""
        found = {name: self._count(f"{{}}.transient_{name}") for name in ("ready", "delayed", "held")}
        return {name: count for name, count in found.items() if count}

    def _count(self, table: str) -> int:
        query = sql.SQL("SELECT count(*) FROM " + table).format(sql.Identifier(self._schema))
        [(count,)] = self._connection.execute(query).fetchall()
        return int(count)


@pytest.fixture
def broker(postgres_place: str) -> Iterator[Broker]:
    broker = brokers.connect(postgres_place)
    yield broker
    broker.close()


@pytest.fixture
def tables(postgres_place: str) -> Iterator[Tables]:
    tables = Tables(postgres_place)
    yield tables
    tables.close()


def test_wherever_it_goes_it_stays_out_of_the_log(broker: Broker, tables: Tables) -> None:
    def there() -> dict[str, int]:
        assert tables.logged() == {}
        return tables.transient()

    send(broker, "a", transient=True, due_in=SHORT)
    assert there() == {"delayed": 1}
    consumer = consumer_of(broker, "goes")
    [one] = consumer.take(1, SOON)
    assert there() == {"held": 1}
    settle(consumer, [one], Release())
    assert there() == {"ready": 1}
    [one] = consumer.take(1, SOON)
    settle(consumer, [one], PutBack(one.data, clock.now() + SHORT))
    assert there() == {"delayed": 1}
    [one] = consumer.take(1, SOON)
    successor = Outgoing(QUEUE, message("b"), 0, clock.now() + LATER, True)
    settle(consumer, [one], Replace(successor))
    assert there() == {"delayed": 1}
    broker.revoke(QUEUE, [Revocation(successor.data[KEY])], LATER)
    assert there() == {"ready": 1}
    [one] = consumer.take(1, SOON)
    broker.surrender([QUEUE], "goes", {one.key: casualty_of("signal 9 (SIGKILL)")}, {}, 3)
    assert there() == {"ready": 1}
    second = consumer_of(broker, "goes on")
    [one] = second.take(1, SOON)
    assert (one.crashes, there()) == (1, {"held": 1})
    settle(second, [one])
    assert there() == {}
    second.close()


def test_a_dead_letter_is_in_the_log_and_comes_back_from_there(broker: Broker, tables: Tables) -> None:
    send(broker, "a", transient=True)
    consumer = consumer_of(broker, "buries")
    [one] = consumer.take(1, SOON)
    settle(consumer, [one], Bury("why"))
    assert (tables.logged(), tables.transient()) == ({"dead": 1}, {})
    broker.replay(QUEUE, [one.key])
    assert (tables.logged(), tables.transient()) == ({"ready": 1}, {})
    assert counts(broker) == (1, 0, 0)
    consumer.close()


@pytest.mark.parametrize("due_in", [None, LATER])
def test_one_that_is_moved_here_is_as_it_was(broker: Broker, tables: Tables, due_in: float | None) -> None:
    assert isinstance(broker, Movable)
    datas = [
        encode(Message(new_key(), "task", options=Options(transient=transient)))
        for transient in (True, False, True)
    ]
    due_at = None if due_in is None else clock.now() + due_in
    broker.send([Outgoing(QUEUE, data, 0, due_at) for data in datas], SOON)
    crate = broker.pack(QUEUE, "elsewhere", 10)
    assert crate is not None and broker.unpack(crate)
    broker.discard(crate)
    place = "ready" if due_in is None else "delayed"
    assert (tables.logged(), tables.transient()) == ({place: 1}, {place: 2})
    # And away again.
    crate = broker.pack(QUEUE, "elsewhere", 10)
    assert crate is not None
    assert (len(crate.parcels), tables.logged(), tables.transient()) == (3, {"parcels": 3}, {})
    assert counts(broker) == (0, 0, 0)


def test_counters_stay_right_when_they_are_folded(broker: Broker, tables: Tables) -> None:
    consumer = consumer_of(broker, "counts")
    send(broker, "late", transient=True, due_in=LATER)
    for place in range(5):
        send(broker, str(place), transient=True)
        settle(consumer, consumer.take(1, SOON))
    send(broker, "left", transient=True)
    for _ in range(3):
        broker.renew([QUEUE], ["counts"], 60.0, 3)
        assert counts(broker) == (1, 1, 0)
        assert broker.queues() == [QUEUE]
    assert broker.purge(QUEUE) == 2
    broker.renew([QUEUE], ["counts"], 60.0, 3)
    assert (counts(broker), broker.queues()) == ((0, 0, 0), [QUEUE])
    consumer.close()


def test_within_a_transaction_of_the_application_they_are_transient_too(
    broker: Broker, tables: Tables, postgres_place: str
) -> None:
    with psycopg.connect(postgres_place.partition("?")[0]) as connection:
        batch = [Outgoing(QUEUE, message(text), transient=text == "a") for text in ("a", "b")]
        assert isinstance(broker, Transactional)
        broker.send_within(batch, connection)
        assert counts(broker) == (0, 0, 0)
    assert (tables.logged(), tables.transient()) == ({"ready": 1}, {"ready": 1})
