"""A task that is sent within a transaction exists if and only if that commits."""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext import asyncio

from celeriac import Celeriac, chain, group
from celeriac.exceptions import ImproperlyConfigured, SettingHasNoEffect
from celeriac.testing.stand import PATIENCE, SOON

CRASHES = """
import os, sys, psycopg
from tests.brokers.test_postgres_within import make_app
app = make_app(sys.argv[1])
connection = psycopg.connect(sys.argv[2])
app.tasks["add"].apply_async((1, 2), connection=connection)
print("sent", flush=True)
sys.stdin.read()
"""


def make_app(place: str) -> Celeriac:
    """An application whose broker is there."""
    app = Celeriac("within", broker=place, set_as_current=False)
    app.task(name="add")(add)
    return app


def add(x: int, y: int) -> int:
    return x + y


@pytest.fixture
def app(postgres_place: str) -> Iterator[Celeriac]:
    with make_app(postgres_place) as app:
        yield app


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url) as connection:
        yield connection


def ready(app: Celeriac) -> int:
    return app.broker.stats("celery").ready


def test_it_exists_when_the_transaction_commits_and_not_before(
    app: Celeriac, connection: psycopg.Connection[Any]
) -> None:
    result = app.tasks["add"].apply_async((1, 2), connection=connection)
    assert ready(app) == 0
    connection.commit()
    assert ready(app) == 1
    consumer = app.broker.consumer(["celery"], "me", lease=60.0, max_deliveries=3)
    [delivery] = consumer.take(5, SOON)
    assert delivery.key.hex() == result.id.replace("-", "")
    consumer.close()


def test_it_never_existed_when_the_transaction_is_rolled_back(
    app: Celeriac, connection: psycopg.Connection[Any]
) -> None:
    app.tasks["add"].apply_async((1, 2), connection=connection)
    connection.rollback()
    app.send_task("add", (1, 2), connection=connection, countdown=60)
    connection.rollback()
    with connection.transaction():
        app.tasks["add"].s(1, 2).apply_async(connection=connection, priority=3)
        with pytest.raises(ZeroDivisionError), connection.transaction():
            app.tasks["add"].apply_async((1, 2), connection=connection)
            _ = 1 / 0
    assert (ready(app), app.broker.stats("celery").delayed) == (1, 0)


def test_it_never_existed_when_its_sender_is_killed(
    app: Celeriac, postgres_url: str, postgres_place: str
) -> None:
    app.broker.queues()
    sender = subprocess.Popen(
        [sys.executable, "-c", CRASHES, postgres_place, postgres_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert sender.stdout is not None
    assert sender.stdout.readline() == b"sent\n"
    sender.kill()
    assert sender.wait(PATIENCE) == -signal.SIGKILL
    for stream in (sender.stdin, sender.stdout):
        assert stream is not None
        stream.close()
    with psycopg.connect(postgres_url) as connection:
        app.tasks["add"].apply_async((1, 2), connection=connection)
    assert ready(app) == 1


def test_who_waits_is_told_by_the_commit(app: Celeriac, connection: psycopg.Connection[Any]) -> None:
    consumer = app.broker.consumer(["celery"], "me", lease=60.0, max_deliveries=3)
    assert consumer.take(1, 0.7) == []
    app.tasks["add"].apply_async((1, 2), connection=connection)
    assert consumer.take(1, 0.05) == []
    connection.commit()
    assert len(consumer.take(1, PATIENCE)) == 1
    consumer.close()


def test_a_transaction_that_lasts_holds_up_nobody(app: Celeriac, connection: psycopg.Connection[Any]) -> None:
    app.tasks["add"].apply_async((1, 2), connection=connection)
    for _ in range(30):
        app.tasks["add"].delay(1, 2)
    consumer = app.broker.consumer(["celery"], "me", lease=0.2, max_deliveries=3)
    assert len(consumer.take(100, SOON)) == 30
    app.broker.renew(["celery"], [consumer.owner], 60.0, 3)
    app.broker.pause("celery")
    app.broker.resume("celery")
    connection.commit()
    assert len(consumer.take(100, PATIENCE)) == 1
    consumer.close()


def test_of_many_transactions_exactly_the_committed_ones_send(
    app: Celeriac, connection: psycopg.Connection[Any]
) -> None:
    chance, committed = random.Random(7), 0
    connection.execute("CREATE TEMPORARY TABLE orders (number integer)")
    connection.commit()
    for number in range(300):
        connection.execute("INSERT INTO orders VALUES (%s)", [number])
        app.tasks["add"].apply_async((number, 0), connection=connection)
        if chance.random() < 0.5:
            connection.commit()
            committed += 1
        else:
            connection.rollback()
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (committed,)
    assert ready(app) == committed


def test_a_chain_begins_with_its_commit_and_other_workflows_are_refused(
    app: Celeriac, connection: psycopg.Connection[Any]
) -> None:
    task = app.tasks["add"]
    chain(task.s(1, 2), task.s(3)).apply_async(connection=connection)
    connection.rollback()
    assert ready(app) == 0
    with pytest.raises(ImproperlyConfigured, match="single task or a chain"):
        group(task.s(1, 2), task.s(3, 4)).apply_async(connection=connection)
    connection.commit()
    assert ready(app) == 0


def test_a_connection_to_another_database_is_refused_and_its_transaction_goes_on(
    app: Celeriac, postgres_url: str
) -> None:
    name = f"celeriac_test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            with psycopg.connect(postgres_url, dbname=name) as elsewhere:
                elsewhere.execute("CREATE TABLE orders ()")
                with pytest.raises(ImproperlyConfigured, match="another database than the broker"):
                    app.tasks["add"].apply_async((1, 2), connection=elsewhere)
                elsewhere.execute("INSERT INTO orders DEFAULT VALUES")
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_broker_that_is_no_database_is_refused(tmp_path: Path, connection: psycopg.Connection[Any]) -> None:
    with make_app(f"sqlite:///{tmp_path}/queue.sqlite") as elsewhere:
        with pytest.raises(ImproperlyConfigured, match="this broker is sqlite:"):
            elsewhere.tasks["add"].apply_async((1, 2), connection=connection)
        assert ready(elsewhere) == 0


def test_what_is_no_connection_of_ours_is_refused_or_warned_of(app: Celeriac) -> None:
    for one in (asyncio.AsyncSession(), object.__new__(asyncio.AsyncConnection)):
        with pytest.raises(ImproperlyConfigured, match="none of them asynchronous"):
            app.tasks["add"].apply_async((1, 2), connection=one)
    with pytest.raises(ImproperlyConfigured, match=r"not a psycopg.*AsyncConnection"):
        app.tasks["add"].apply_async((1, 2), connection=object.__new__(psycopg.AsyncConnection))
    with pytest.warns(SettingHasNoEffect, match="connections are kept"):
        app.tasks["add"].apply_async((1, 2), connection=object())
    assert ready(app) == 1


def test_over_a_session_of_sqlalchemy(app: Celeriac, postgres_url: str) -> None:
    engine = sqlalchemy.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with orm.Session(engine) as session:
        session.execute(sqlalchemy.text("SELECT 1"))
        app.tasks["add"].apply_async((1, 2), connection=session)
        session.rollback()
        app.tasks["add"].apply_async((1, 2), connection=session)
        assert ready(app) == 0
        session.commit()
    assert ready(app) == 1
    with engine.connect() as plain:
        app.tasks["add"].apply_async((1, 2), connection=plain)
        assert ready(app) == 1
        plain.commit()
    with engine.connect() as plain:
        app.tasks["add"].apply_async((1, 2), connection=plain)
    engine.dispose()
    assert ready(app) == 2


DJANGO = """
import sys
import django
from django.conf import settings
from celeriac import urls
from tests.brokers.test_postgres_within import make_app
where = urls.parse(sys.argv[2])
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": where.path.strip("/"), "USER": where.username,
    "PASSWORD": where.password or "", "HOST": where.host, "PORT": where.port or 5432,
}})
django.setup()
from django.db import connection, transaction
app = make_app(sys.argv[1])
add = app.tasks["add"]
with transaction.atomic():
    add.apply_async((1, 2), connection=connection)
    assert app.broker.stats("celery").ready == 0
assert app.broker.stats("celery").ready == 1
try:
    with transaction.atomic():
        add.apply_async((1, 2), connection=connection)
        raise KeyError
except KeyError:
    pass
with transaction.atomic():
    add.apply_async((1, 2), connection=transaction.get_connection())
print(app.broker.stats("celery").ready)
"""


def test_over_a_connection_of_django(app: Celeriac, postgres_url: str, postgres_place: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DJANGO, postgres_place, postgres_url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("2\n", "")
    assert ready(app) == 2
