"""Transient messages in an SQLite file: stored with the others, and nobody waits for the disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import (
    Ack,
    Action,
    Bury,
    Outgoing,
    PutBack,
    Record,
    Release,
    Replace,
    Settlement,
)
from celeriac.brokers.sqlite import SQLiteBroker, SQLiteConsumer
from celeriac.exceptions import BrokerRefused
from celeriac.message import Message, Options, encode, new_key

QUEUE = "fleeting"
SOON = 5.0
#: What `PRAGMA synchronous` answers: the log is synced at checkpoints alone, or at every commit.
NORMAL, FULL = 1, 2


def a_message(transient: bool) -> Outgoing:
    data = encode(Message(new_key(), "task", options=Options(transient=transient)))
    return Outgoing(QUEUE, data, transient=transient)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[SQLiteBroker]:
    broker = connect(f"sqlite:///{tmp_path}/broker.sqlite")
    assert isinstance(broker, SQLiteBroker)
    yield broker
    broker.close()


@pytest.fixture
def commits(broker: SQLiteBroker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How each transaction that writes is going to be committed, asked for within it."""
    file = broker._file  # pyright: ignore[reportPrivateUsage]
    noted: list[int] = []
    write = file.write

    def watched(work: Callable[..., Any], *how: Any) -> Any:
        def noting(connection: Any) -> Any:
            noted.append(connection.execute("PRAGMA synchronous").fetchone()[0])
            return work(connection)

        return write(noting, *how)

    monkeypatch.setattr(file, "write", watched)
    return noted


@pytest.fixture
def consumer(broker: SQLiteBroker) -> Iterator[SQLiteConsumer]:
    consumer = broker.consumer([QUEUE], "takes", lease=60.0, max_deliveries=3)
    yield consumer
    consumer.close()


def test_only_a_send_of_transient_messages_alone_waits_for_no_disk(
    broker: SQLiteBroker, commits: list[int]
) -> None:
    broker.send([a_message(True), a_message(True)], SOON)
    broker.send([a_message(True), a_message(False)], SOON)
    broker.send([a_message(True)], SOON)
    broker.send([a_message(False)], SOON)
    broker.send_limited([a_message(True)], {QUEUE: 100}, SOON)
    broker.pause(QUEUE)
    assert commits == [NORMAL, FULL, NORMAL, FULL, NORMAL, FULL]
    assert broker.stats(QUEUE).ready == 7


@pytest.mark.parametrize(
    ("transient", "action", "level"),
    [
        (True, Ack(), NORMAL),
        (True, Release(), NORMAL),
        (True, Replace(a_message(True)), NORMAL),
        (True, Replace(a_message(False)), FULL),
        (True, Bury("why"), FULL),
        (False, Ack(), FULL),
        (False, Release(), FULL),
        (False, Replace(a_message(True)), FULL),
        (False, PutBack(a_message(False).data, 0.0), FULL),
    ],
)
def test_only_the_end_of_a_transient_message_waits_for_no_disk(
    broker: SQLiteBroker,
    consumer: SQLiteConsumer,
    commits: list[int],
    transient: bool,
    action: Action,
    level: int,
) -> None:
    broker.send([a_message(transient)], SOON)
    batch = consumer.take(1, SOON)
    commits.clear()
    assert consumer.settle([Settlement(one, action) for one in batch]) == []
    assert commits == [level]


@pytest.mark.parametrize("more", [{"sends": [a_message(False)]}, {"records": [Record(b"k", b"v")]}])
def test_what_is_stored_with_its_end_is_on_the_disk(
    broker: SQLiteBroker, consumer: SQLiteConsumer, commits: list[int], more: dict[str, Any]
) -> None:
    broker.send([a_message(True), a_message(True)], SOON)
    first, second = consumer.take(2, SOON)
    commits.clear()
    assert consumer.settle([Settlement(first, Ack()), Settlement(second, Ack(), **more)]) == []
    assert commits == [FULL]


def test_a_transaction_that_failed_leaves_the_next_one_as_it_should_be(
    broker: SQLiteBroker, commits: list[int]
) -> None:
    with pytest.raises(BrokerRefused, match="NOT NULL"):
        broker.send([Outgoing(QUEUE, None, transient=True), a_message(True)], SOON)  # type: ignore[arg-type]
    broker.send([a_message(False)], SOON)
    assert commits == [NORMAL, FULL]
    assert broker.stats(QUEUE).ready == 1


SENDER = """
import os, signal, sys
from celeriac.brokers import connect
from celeriac.brokers.contract import Outgoing
connect(sys.argv[1]).send([Outgoing("fleeting", b"1" * 20, transient=True)], 5.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_they_outlive_the_process_that_sent_them(broker: SQLiteBroker, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/broker.sqlite"
    ended = subprocess.run([sys.executable, "-c", SENDER, url], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert broker.stats(QUEUE).ready == 1
