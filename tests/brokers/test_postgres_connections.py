"""Connections to PostgreSQL: over forks, through poolers, to silent servers, and with answers that get lost."""

from __future__ import annotations

import os
import secrets
import select
import socket
import time
import warnings
from collections.abc import Callable, Iterator

import psycopg
import pytest

from celeriac import brokers, clock, results, urls
from celeriac.brokers import postgres_verbs as verbs
from celeriac.brokers.abilities import Migrates, Movable
from celeriac.brokers.contract import Broker, Outgoing, Record
from celeriac.brokers.postgres import PostgresBroker
from celeriac.drivers import postgres_schema
from celeriac.drivers.postgres import Address, Connection
from celeriac.drivers.postgres_wire import Verb
from celeriac.exceptions import BrokerRefused, BrokerUnavailable, ImproperlyConfigured, ResultStoreUnavailable
from celeriac.message import new_key
from celeriac.testing.stand import message, names
from tests import postgres
from tests.brokers.lost_answers import taken_past_a_lost_answer
from tests.chaos.proxy import Network, Proxy
from tests.postgres import PrivatePostgres

QUEUE = "letters"
SOON = 5.0


@pytest.fixture
def way(postgres_place: str) -> Iterator[Proxy]:
    """The network between somebody and the server."""
    with Network() as network:
        yield network.proxy(urls.parse(postgres_place).port or 5432)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so, for some seconds."""
    until = time.monotonic() + SOON
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


def by_way(place: str, way: Proxy, **options: object) -> Broker:
    """A broker at that place, behind the network."""
    port = urls.parse(place).port or 5432
    return brokers.connect(place.replace(f":{port}/", f":{way.port}/"), {"sslmode": "disable", **options})


def test_a_forked_child_reads_nothing_of_its_parents_connection(postgres_url: str) -> None:
    connection = Connection(Address(urls.parse(postgres_url), {}), SOON)
    connection._pg.send_query(b"SELECT 17")  # pyright: ignore[reportPrivateUsage]
    assert select.select([connection._pg.socket], [], [], SOON)[0]  # pyright: ignore[reportPrivateUsage]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        is_closed = connection.is_closed()
        connection.close()
        os._exit(0 if is_closed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert connection._pg.get_result().get_value(0, 0) == b"17"  # pyright: ignore[reportPrivateUsage]
    assert connection._pg.get_result() is None  # pyright: ignore[reportPrivateUsage]
    assert connection.call(Verb("SELECT 1", "", "int")) == [(1,)]
    connection.close()


# -- what cannot be reached ---------------------------------------------------------------------------------


def test_a_server_that_never_answers_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = brokers.connect(f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x")
        for _ in range(3):
            began = clock.monotonic()
            with pytest.raises(BrokerUnavailable, match=r"not stored within 0.3 s.*does not answer"):
                broker.send([Outgoing(QUEUE, message("a"))], 0.3)
            assert clock.monotonic() - began < 0.3 + SOON


def test_a_refused_connection_is_unavailable_and_names_no_password(closed_port: int) -> None:
    url = f"postgresql://me:hunter2@127.0.0.1:{closed_port}/x"
    with pytest.raises(BrokerUnavailable, match="refused") as caught:
        brokers.connect(url).send([Outgoing(QUEUE, message("a"))], 0.3)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ResultStoreUnavailable, match="refused") as caught_too:
        results.connect(url).get([new_key()])
    assert "hunter2" not in str(caught_too.value)


def test_a_database_that_is_not_there_is_refused_at_once(postgres_url: str) -> None:
    where = urls.parse(postgres_url)
    broker = brokers.connect(postgres_url.replace(where.path, "/no_such_database"))
    with pytest.raises(BrokerRefused, match="create it, or name another"):
        broker.send([Outgoing(QUEUE, message("a"))], 60.0)


def test_a_send_waits_for_nobodys_lock_longer_than_it_may(postgres_url: str, postgres_place: str) -> None:
    broker = brokers.connect(postgres_place)
    broker.queues()
    schema = urls.parse(postgres_place).query["schema"]
    with psycopg.connect(postgres_url) as other:
        other.execute(f"LOCK TABLE {schema}.ready IN ACCESS EXCLUSIVE MODE")
        began = clock.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"not stored within 0.3 s"):
            broker.send([Outgoing(QUEUE, message("a"))], 0.3)
        assert clock.monotonic() - began < 0.3 + SOON
    broker.close()


def test_an_option_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"no option 'shema'. Did you mean 'schema'"):
        brokers.connect("postgresql://localhost/x?shema=y")
    with pytest.raises(ImproperlyConfigured, match="small letters"):
        brokers.connect("postgresql://localhost/x?schema=a-b")


# -- answers that get lost ----------------------------------------------------------------------------------


def test_a_send_whose_answer_was_lost_is_stored_once(postgres_place: str, way: Proxy) -> None:
    near, far = brokers.connect(postgres_place), by_way(postgres_place, way, timeout=2.0)
    far.queues()
    way.set_mode("half-open")
    with pytest.raises(BrokerUnavailable):
        far.send([Outgoing(QUEUE, message("a"))], 2.0)
    assert near.stats(QUEUE).ready <= 1
    way.set_mode("open")
    assert isinstance(near, PostgresBroker)
    near.purge(QUEUE)
    mark = os.urandom(12)
    for _ in range(2):
        near._call(verbs.SEND, mark, [QUEUE], [0], [None], [message("b")], None)  # pyright: ignore[reportPrivateUsage]
    assert near.stats(QUEUE).ready == 1
    near.close()
    far.close()


@pytest.mark.parametrize("mode", ["cut", "half-open", "hold"])
def test_what_a_lost_answer_brought_is_taken_again_in_its_order(
    postgres_place: str, way: Proxy, mode: str
) -> None:
    far = by_way(postgres_place, way, timeout=2.0)
    far.send([Outgoing(QUEUE, message(str(number))) for number in range(10)], SOON)
    consumer = far.consumer([QUEUE], f"me-{secrets.token_hex(4)}", lease=30.0, max_deliveries=3)
    assert names(taken_past_a_lost_answer(consumer, way, mode)) == [str(number) for number in range(10)]
    consumer.close()
    far.close()


# -- poolers ------------------------------------------------------------------------------------------------


def test_a_pooler_is_known_by_the_process_that_answers(postgres_place: str, postgres_pooled: str) -> None:
    for place, hears in (
        (postgres_place, True),
        (postgres_pooled, False),
        (f"{postgres_place}&listen=no", False),
    ):
        connection = Connection(Address(urls.parse(place), {}), SOON)
        assert connection.hears is hears
        connection.close()


def test_without_notifications_messages_notices_and_results_are_asked_for(postgres_place: str) -> None:
    asking, broker = brokers.connect(f"{postgres_place}&listen=no"), brokers.connect(postgres_place)
    consumer = asking.consumer([QUEUE], f"me-{secrets.token_hex(4)}", lease=60.0, max_deliveries=3)
    listener = asking.listen(["name"])
    assert consumer.take(1, 0) == listener.wait(0) == []
    broker.send([Outgoing(QUEUE, message("a"))], SOON)
    broker.notify("name", b"x" * 20_000)
    assert names(consumer.take(1, SOON)) == ["a"]
    assert listener.wait(SOON) == [("name", b"x" * 20_000)]
    store, key = results.connect(f"{postgres_place}&listen=no"), new_key()
    with store.watch([key]) as watch:
        assert watch.next(0) == {}
        results.connect(postgres_place).put([Record(key, b"done")])
        assert watch.next(SOON) == {key: b"done"}
    for one in (consumer, listener, asking, broker, store):
        one.close()


def test_another_isolation_of_transactions_is_set_right_or_refused(
    postgres_url: str, postgres_schema: str, postgres_place: str
) -> None:
    brokers.connect(postgres_place).queues()
    strict = f"{postgres_place}&options=-c%20default_transaction_isolation%3Dserializable"
    broker = brokers.connect(strict)
    broker.send([Outgoing(QUEUE, message("a"))], SOON)
    shown = Verb("SELECT current_setting('transaction_isolation')", "", "text")
    assert isinstance(broker, PostgresBroker)
    assert broker._call(shown) == [("read committed",)]  # pyright: ignore[reportPrivateUsage]
    broker.close()
    with pytest.raises(BrokerRefused, match="set it to 'read committed'"):
        brokers.connect(f"{strict}&listen=no").queues()


# -- the schema ---------------------------------------------------------------------------------------------


@pytest.fixture
def schema(postgres_url: str) -> Iterator[str]:
    """The name of a schema that is not there."""
    name = f"celeriac_test_{secrets.token_hex(6)}"
    yield name
    postgres.drop(postgres_url, name)


def test_it_is_made_by_whoever_comes_first_and_once(postgres_url: str, schema: str) -> None:
    place = postgres.with_schema(postgres_url, schema)
    children: list[int] = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                brokers.connect(place).send([Outgoing(QUEUE, message("a"))], 30.0)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    broker = brokers.connect(place)
    assert broker.stats(QUEUE).ready == 4
    broker.close()


def test_who_may_not_make_it_is_told_what_to_do(postgres_url: str, schema: str) -> None:
    role = f"celeriac_test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        try:
            where = urls.parse(postgres_url)
            url = f"postgresql://{role}:secret@{where.host}:{where.port or 5432}{where.path}?schema={schema}"
            with pytest.raises(BrokerRefused, match=f"'{role}' may not make it .*run `celeriac migrate`"):
                brokers.connect(url).send([Outgoing(QUEUE, message("a"))], 30.0)
        finally:
            connection.execute(f"DROP ROLE {role}")


def test_tables_of_a_later_version_are_left_alone(postgres_url: str, schema: str) -> None:
    place = postgres.with_schema(postgres_url, schema)
    broker = brokers.connect(place)
    broker.queues()
    broker.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"INSERT INTO {schema}.versions (number) VALUES (1000000)")
    with pytest.raises(BrokerRefused, match="made by a later one; upgrade this one"):
        brokers.connect(place).queues()


def test_tables_of_an_earlier_version_are_changed_when_somebody_says_so(
    postgres_url: str, schema: str
) -> None:
    place = postgres.with_schema(postgres_url, schema)
    first = postgres_schema.script_of([1], Address(urls.parse(place), {}))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(first.encode())
    broker = brokers.connect(place)
    with pytest.raises(
        BrokerRefused, match=r"have version 1, and this Celeriac needs .*run `celeriac migrate`"
    ):
        broker.queues()
    assert isinstance(broker, Migrates)
    assert len(broker.migrate(dry_run=False)) == postgres_schema.VERSION - 1
    broker.send([Outgoing(QUEUE, message("a"))], SOON)
    assert isinstance(broker, Movable)
    crate = broker.pack(QUEUE, "elsewhere", 10)
    assert crate is not None
    assert broker.unpack(crate)
    assert broker.stats(QUEUE).ready == 1
    broker.close()


def test_it_can_be_made_by_hand_as_it_would_be_made(postgres_url: str, schema: str) -> None:
    place = postgres.with_schema(postgres_url, schema)
    broker = brokers.connect(place)
    assert isinstance(broker, Migrates)
    scripts = broker.migrate(dry_run=True)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        assert connection.execute("SELECT to_regnamespace(%s)", [schema]).fetchone() == (None,)
        for script in scripts:
            connection.execute(script.encode())
            connection.execute("SELECT 1")
    assert broker.migrate(dry_run=False) == []
    broker.send([Outgoing(QUEUE, message("a"))], SOON)
    assert broker.stats(QUEUE).ready == 1
    broker.close()


# -- how the server is set up -------------------------------------------------------------------------------


def test_a_server_that_loses_what_is_stored_or_never_tidies_up_is_told_of(
    private_postgres: PrivatePostgres,
) -> None:
    with psycopg.connect(private_postgres.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        connection.execute("ALTER SYSTEM SET autovacuum = off")
        connection.execute("SELECT pg_reload_conf()")
        wait_for(lambda: connection.execute("SHOW autovacuum").fetchone() == ("off",))
    broker = brokers.connect(private_postgres.url)
    told = broker.cautions()
    assert [text.partition(" is off: ")[0] for text in told] == ["autovacuum", "fsync", "synchronous_commit"]
    broker.close()
