"""The shop: orders that are placed in transactions, and the task that fulfils each order whose transaction commits.

Workers import this module; the environment says which database, and with which settings. Senders run it:

    python -m tests.transactions.load SEED FIRST LAST      place the orders of these numbers, and die now and then
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy import orm

from celeriac import Celeriac, context
from celeriac.exceptions import BrokerUnavailable

URL_VARIABLE, SETTINGS_VARIABLE = "TRANSACTIONS_URL", "TRANSACTIONS_SETTINGS"
QUEUE = "orders"
TABLES = (
    # `how` is how the transaction was made; `sender` its process.
    "CREATE TABLE orders (number integer PRIMARY KEY, how text, sender integer)",
    "CREATE TABLE runs (number integer, task_id text, pid integer, retries integer)",
)
#: The numbers of orders whose savepoint is rolled back, in a transaction of another order.
BAIT = 1_000_000_000
#: What a sender does with a transaction, and how often.
ENDS = {"commit": 60, "roll back": 30, "die before the end": 1, "hang up": 5, "fail": 4}

Execute = Callable[..., Any]
Send = Callable[..., Any]


def fulfil(self: Any, number: int) -> None:
    request = context.current_task().request
    with psycopg.connect(os.environ[URL_VARIABLE], autocommit=True) as connection:
        connection.execute(
            "INSERT INTO runs VALUES (%s, %s, %s, %s)", [number, request.id, os.getpid(), request.retries]
        )


def make_app(url: str, **settings: Any) -> Celeriac:
    """The application of the task above."""
    app = Celeriac("transactions", broker=url, task_default_queue=QUEUE, **settings)
    app.task(
        name="fulfil", bind=True, autoretry_for=(psycopg.OperationalError,), max_retries=None,
        default_retry_delay=0.2, retry_backoff=False,
    )(fulfil)  # fmt: skip
    return app


if URL_VARIABLE in os.environ:
    app = make_app(os.environ[URL_VARIABLE], **json.loads(os.environ[SETTINGS_VARIABLE]))


class Shop:
    """One that places orders, each in a transaction of its own."""

    def __init__(self, url: str, draw: random.Random) -> None:
        self._draw = draw
        self._connection = psycopg.connect(url)
        self._engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def place(self, number: int) -> None:
        """One order, and one task; whether they come to be is left to chance."""
        end = self._draw.choices(list(ENDS), ENDS.values())[0]
        with contextlib.suppress(ZeroDivisionError):
            if self._draw.random() < 0.3:
                self._by_sqlalchemy(number, end)
            else:
                self._by_psycopg(number, end)

    def _by_psycopg(self, number: int, end: str) -> None:
        connection = self._connection
        with self._dying(end, connection.commit, connection.rollback, connection.close):
            connection.execute("INSERT INTO orders VALUES (%s, %s, %s)", [number, end, os.getpid()])
            if self._draw.random() < 0.2:
                with contextlib.suppress(ZeroDivisionError), connection.transaction():
                    app.tasks["fulfil"].apply_async((BAIT + number,), connection=connection)
                    _ = 1 / 0
            match self._draw.randrange(3):
                case 0:
                    app.tasks["fulfil"].apply_async((number,), connection=connection)
                case 1:
                    delay = self._draw.random()
                    app.send_task("fulfil", (number,), connection=connection, countdown=delay)
                case _:
                    app.tasks["fulfil"].s(number).apply_async(connection=connection, priority=5)

    def _by_sqlalchemy(self, number: int, end: str) -> None:
        with orm.Session(self._engine) as session:

            def hang_up() -> None:
                session.connection().invalidate()

            with self._dying(end, session.commit, session.rollback, hang_up):
                app.tasks["fulfil"].apply_async((number,), connection=session)
                session.execute(
                    sqlalchemy.text("INSERT INTO orders VALUES (:number, :how, :sender)"),
                    {"number": number, "how": end, "sender": os.getpid()},
                )

    @contextlib.contextmanager
    def _dying(
        self, end: str, commit: Callable[[], Any], roll_back: Callable[[], Any], hang_up: Callable[[], Any]
    ) -> Iterator[None]:
        """End a transaction like that."""
        yield
        match end:
            case "commit":
                commit()
            case "roll back":
                roll_back()
            case "die before the end":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang up":
                hang_up()
                raise psycopg.OperationalError("hung up")
            case _:
                roll_back()
                raise ZeroDivisionError


def main(seed: str, first: int, last: int) -> None:
    """Place the orders of these numbers, the last too. Tells each number before it begins."""
    shop: Shop | None = None
    for number in range(first, last + 1):
        while shop is None:
            try:
                shop = Shop(os.environ[URL_VARIABLE], random.Random(f"{seed} {number}"))
            except psycopg.OperationalError:
                time.sleep(0.05)
        print(number, flush=True)
        try:
            shop.place(number)
        except (psycopg.OperationalError, sqlalchemy.exc.DBAPIError, BrokerUnavailable):
            # Whether that one exists, nobody here knows; the table of orders does.
            with contextlib.suppress(psycopg.OperationalError, sqlalchemy.exc.DBAPIError):
                shop.close()
            shop = None


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
