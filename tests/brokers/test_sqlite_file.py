"""What is SQLite's own: processes that share a file, forks, locks, full disks, foreign files, clocks that jump."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from celeriac import clock
from celeriac.brokers import connect
from celeriac.brokers.contract import Ack, Broker, Consumer, Outgoing, Record, Revocation, Settlement
from celeriac.brokers.sqlite import SQLiteBroker
from celeriac.exceptions import (
    BackendError,
    BrokerRefused,
    BrokerUnavailable,
    ImproperlyConfigured,
    ResultStoreUnavailable,
)
from celeriac.results import connect as connect_results
from celeriac.testing import BrokerContract
from celeriac.testing.stand import message, name_of, names

HOUR = 3600.0


class TestTwoConnections(BrokerContract):
    """The whole contract where every second connection is one of its own, as another process's would be."""

    @pytest.fixture
    def make_broker(self, tmp_path: Path) -> Callable[[], Broker]:
        modes = itertools.cycle(["full", "normal"])
        return lambda: connect(f"sqlite:///{tmp_path}/broker.sqlite?synchronous={next(modes)}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def broker(url: str) -> Iterator[SQLiteBroker]:
    broker = connect(url)
    assert isinstance(broker, SQLiteBroker)
    yield broker
    broker.close()


@pytest.fixture
def other(url: str) -> Iterator[Broker]:
    """The same file over another connection of this process."""
    other = connect(f"{url}?synchronous=normal")
    yield other
    other.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock: what is in the list."""
    moment = [time.time()]
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    return moment


def send(broker: Broker, *names: str) -> None:
    broker.send([Outgoing("q", message(name)) for name in names], 5.0)


def consume(broker: Broker, owner: str = "owner", lease: float = 60.0) -> Consumer:
    return broker.consumer(["q"], owner, lease=lease, max_deliveries=3)


def drained(broker: Broker) -> list[str]:
    consumer = consume(broker, "drain")
    found: list[str] = []
    while batch := consumer.take(100, 0):
        found += names(batch)
        consumer.settle([Settlement(delivery, Ack()) for delivery in batch])
    consumer.close()
    return found


def start(code: str, *args: object) -> subprocess.Popen[str]:
    """A Python process that has `broker`, connected to the URL that is its first argument, and `send`."""
    head = """
        import resource, sqlite3, sys, time
        from celeriac.brokers import connect
        from celeriac.brokers.contract import Ack, Outgoing, Settlement
        from celeriac.testing.stand import message
        broker = connect(sys.argv[1])
        def send(name, timeout=10.0):
            broker.send([Outgoing("q", message(name))], timeout)
        def say(*what):
            print(*what, flush=True)
    """
    source = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=30)
    return out.strip()


class TestProcesses:
    def test_what_one_process_sends_another_takes_soon(self, broker: SQLiteBroker, url: str) -> None:
        child = start(
            """
            consumer = broker.consumer(["q"], "child", lease=60, max_deliveries=3)
            consumer.take(1, 0)
            say("ready")
            for _ in range(20):
                [delivery] = consumer.take(1, 20)
                consumer.settle([Settlement(delivery, Ack(), [Outgoing("back", delivery.data)])])
            consumer.close()
            """,
            url,
        )
        assert line(child) == "ready"
        back = broker.consumer(["back"], "parent", lease=60, max_deliveries=3)
        laps: list[float] = []
        for number in range(20):
            began = time.monotonic()
            send(broker, str(number))
            [delivery] = back.take(1, 20)
            laps.append(time.monotonic() - began)
            assert name_of(delivery.data) == str(number)
            back.settle([Settlement(delivery, Ack())])
        end(child)
        assert sorted(laps)[10] < 0.5
        back.close()

    def test_processes_that_open_a_new_file_at_once_make_one_schema(
        self, broker: SQLiteBroker, url: str
    ) -> None:
        children = [start("sys.stdin.readline(); send(sys.argv[2]); say('ok')", url, i) for i in range(6)]
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [end(child) for child in children] == ["ok"] * 6
        assert sorted(drained(broker)) == [str(i) for i in range(6)]

    def test_every_message_is_taken_once_by_processes_that_race(self, broker: SQLiteBroker, url: str) -> None:
        send(broker, *map(str, range(300)))
        code = """
            consumer = broker.consumer(["q"], sys.argv[2], lease=60, max_deliveries=3)
            while batch := consumer.take(3, 0):
                refused = consumer.settle([Settlement(delivery, Ack()) for delivery in batch])
                assert not refused
                say(*(delivery.data[17:].decode() for delivery in batch))
            consumer.close()
        """
        children = [start(code, url, f"owner-{i}") for i in range(3)]
        taken = [name for child in children for name in end(child).split()]
        assert sorted(taken, key=int) == list(map(str, range(300)))
        stats = broker.stats("q")
        assert (stats.ready, stats.running) == (0, 0)

    def test_what_a_killed_sender_was_told_is_stored_is_there(self, broker: SQLiteBroker, url: str) -> None:
        child = start("for i in range(10**6): send(str(i)); say(i)", url)
        while line(child) != "50":
            pass
        child.send_signal(signal.SIGKILL)
        told = [50, *(int(text) for text in end(child).split() if text.isdigit())]
        there = drained(broker)
        assert there == list(map(str, range(len(there))))
        # The last line may have been cut off in the pipe; a message may be stored and not yet be told.
        assert len(there) > told[-2 if len(told) > 1 else -1]

    def test_a_process_killed_in_a_transaction_leaves_nothing_of_it(
        self, broker: SQLiteBroker, url: str, path: Path
    ) -> None:
        send(broker, "a", "b")
        child = start(
            """
            connection = sqlite3.connect(sys.argv[2], isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM ready")
            connection.execute("UPDATE queues SET ready = 0")
            say("deleted")
            time.sleep(60)
            """,
            url,
            path,
        )
        assert line(child) == "deleted"
        child.send_signal(signal.SIGKILL)
        end(child)
        send(broker, "c")
        assert broker.stats("q").ready == 3
        assert drained(broker) == ["a", "b", "c"]


class TestForks:
    @pytest.fixture(autouse=True)
    def allow_forks(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield

    def test_a_child_survives_that_its_parent_closes_the_file(self, broker: SQLiteBroker) -> None:
        # Where a child inherits a connection, SQLite believes to hold locks in it that the parent holds: the
        # parent, closing as the last one, deletes the log into which the child then writes.
        send(broker, "parent")
        is_closed, has_sent = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                send(broker, "child 1")
                os.write(has_sent[1], b"x")
                os.read(is_closed[0], 1)
                send(broker, "child 2")
                status = 0
            finally:
                os._exit(status)
        os.read(has_sent[0], 1)
        broker.close()
        os.write(is_closed[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        for descriptor in (*is_closed, *has_sent):
            os.close(descriptor)
        assert drained(broker) == ["parent", "child 1", "child 2"]

    def test_forks_beside_a_thread_that_sends_lose_nothing(self, broker: SQLiteBroker, path: Path) -> None:
        stop = threading.Event()
        sent = 0

        def keep_sending() -> None:
            nonlocal sent
            while not stop.is_set():
                send(broker, "thread")
                sent += 1

        thread = threading.Thread(target=keep_sending)
        thread.start()
        statuses: list[int] = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    send(broker, "child")
                    status = 0
                finally:
                    os._exit(status)
            statuses.append(os.waitpid(child, 0)[1])
        stop.set()
        thread.join()
        assert statuses == [0] * 10
        found = drained(broker)
        assert (found.count("child"), found.count("thread")) == (10, sent)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_a_short_wait_outlasts_a_use_by_another_thread(self, broker: SQLiteBroker) -> None:
        """However little a `take` may wait: that others of its process use the file is no failure."""
        consumer = consume(broker)
        file = broker._file
        is_in_use, is_over = threading.Event(), threading.Event()

        def use(_: sqlite3.Connection) -> None:
            is_in_use.set()
            is_over.wait(20)

        user = threading.Thread(target=file.write, args=(use, 20.0))

        def look(is_first: bool) -> bool:
            if is_first:
                user.start()
                is_in_use.wait(20)
                threading.Timer(0.2, is_over.set).start()
            return False

        looks = itertools.chain([True], itertools.repeat(False))
        file.wait(file.version(1.0), 0.01, lambda: look(next(looks)))
        user.join(20)
        consumer.close()

    def test_a_take_that_waits_in_the_parent_goes_on_after_a_fork(self, broker: SQLiteBroker) -> None:
        consumer = consume(broker)
        consumer.take(1, 0)
        taken: list[str] = []
        thread = threading.Thread(target=lambda: taken.extend(names(consumer.take(1, 20))))
        thread.start()
        child = os.fork()
        if child == 0:
            try:
                send(broker, "from the child")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        thread.join(20)
        assert taken == ["from the child"]
        consumer.close()


class TestTrouble:
    def test_a_locked_file_is_unavailable_within_the_timeout(self, broker: SQLiteBroker, path: Path) -> None:
        send(broker, "a")
        with closing(sqlite3.connect(path, isolation_level=None)) as locker:
            locker.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(BrokerUnavailable, match=r"queue\.sqlite"):
                    broker.send([Outgoing("q", message("no"))], 0.2)
                assert 0.15 < time.monotonic() - began < 3.0
            with pytest.raises(BrokerUnavailable):
                consume(broker).take(1, 0)
            assert broker.stats("q").ready == 1
        send(broker, "b")
        assert drained(broker) == ["a", "b"]

    def test_a_full_disk_is_refused_and_nothing_is_lost(self, broker: SQLiteBroker, url: str) -> None:
        send(broker, "before")
        child = start(
            """
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
            from celeriac.exceptions import BrokerRefused
            for i in range(10_000):
                try:
                    send(f"{i} " + "x" * 1_000)
                except BrokerRefused as error:
                    say(i)
                    say(error)
                    break
            consumer = broker.consumer(["q"], "child", lease=60, max_deliveries=3)
            """,
            url,
        )
        stored, text = end(child).splitlines()
        assert "full" in text
        assert "queue.sqlite" in text
        assert broker.stats("q").ready == int(stored) + 1
        send(broker, "after")
        found = [name.split()[0] for name in drained(broker)]
        assert found == ["before", *map(str, range(int(stored))), "after"]

    @pytest.mark.parametrize(
        "content", [b"this is not a database at all " * 100, b"SQLite format 3\x00" + b"\xff" * 4000]
    )
    def test_garbage_is_refused_and_left_alone(
        self, broker: SQLiteBroker, path: Path, content: bytes
    ) -> None:
        path.write_bytes(content)
        with pytest.raises(BrokerRefused, match=r"queue\.sqlite.*(not an SQLite database|damaged)"):
            send(broker, "a")
        assert path.read_bytes() == content
        with pytest.raises(BackendError) as caught:
            connect_results(f"sqlite:///{path}").get([b"k" * 16])
        assert not isinstance(caught.value, ResultStoreUnavailable)

    def test_another_programs_database_is_refused_and_left_alone(
        self, broker: SQLiteBroker, path: Path
    ) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE invoices (number)")
        content = path.read_bytes()
        with pytest.raises(BrokerRefused, match="another program's database"):
            send(broker, "a")
        assert path.read_bytes() == content

    def test_a_later_versions_file_is_refused(self, broker: SQLiteBroker, path: Path) -> None:
        send(broker, "a")
        broker.close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        with pytest.raises(BrokerRefused, match="later Celeriac"):
            send(broker, "b")

    def test_an_earlier_versions_file_gets_what_it_lacks(self, broker: SQLiteBroker, path: Path) -> None:
        send(broker, "a")
        broker.close()
        with closing(sqlite3.connect(path)) as connection:
            for table in ("revoked", "notices", "crates", "unpacked", "subscriptions"):
                connection.execute(f"DROP TABLE {table}")
            connection.execute("PRAGMA user_version = 2")
        listener = broker.listen(["fleet"])
        broker.notify("fleet", b"x")
        assert listener.wait(10.0) == [("fleet", b"x")]
        assert broker.revoke("q", [Revocation(bytes(16))], 60.0) == []
        assert broker.revoked("q") == [Revocation(bytes(16))]
        assert broker.pack("q", "elsewhere", 0) is None
        broker.subscribe("news", "q", 60.0)
        assert broker.subscribers("news") == ["q"]
        assert drained(broker) == ["a"]

    def test_a_missing_directory_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BrokerRefused, match="directory is missing"):
            send(connect(f"sqlite:///{tmp_path}/no/such/queue.sqlite"), "a")

    def test_a_deleted_file_is_made_anew_and_that_is_told_once(
        self, broker: SQLiteBroker, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        send(broker, "old")
        consumer = consume(broker)
        assert names(consumer.take(1, 0)) == ["old"]
        for file in path.parent.iterdir():
            file.unlink()
        send(broker, "new")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM ready").fetchone() == (1,)
        assert drained(broker) == ["new"]
        (told,) = [record.getMessage() for record in caplog.records]
        assert f"{str(path)!r} was deleted or replaced" in told

    @pytest.mark.parametrize(
        ("bad", "text"),
        [
            ("sqlite://", "names no file"),
            ("sqlite:///", "names no file"),
            ("sqlite://host/file", "names no file"),
            ("sqlite:///:memory:", "memory://"),
            ("sqlite:///f?synchronus=full", "Did you mean 'synchronous'"),
            ("sqlite:///f?synchronous=off", "'full' or 'normal'"),
        ],
    )
    def test_a_url_that_cannot_work_says_why(self, bad: str, text: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=text):
            connect(bad)


class TestClock:
    @pytest.mark.parametrize("jump", [HOUR, -HOUR])
    def test_a_clock_that_jumps_ends_no_lease(
        self, broker: SQLiteBroker, other: Broker, now: list[float], jump: float
    ) -> None:
        send(broker, "a")
        consumer = consume(broker, lease=30.0)
        held = consumer.take(1, 0)
        broker.renew(["q"], ["owner"], 30.0, 3)
        now[0] += jump
        assert consume(other, "second", lease=30.0).take(1, 0) == []
        assert other.renew(["q"], [], 30.0, 3) == []
        assert broker.renew(["q"], ["owner"], 30.0, 3) == []
        assert consumer.confirm(held) == []

    @pytest.mark.parametrize("jump", [HOUR, -HOUR])
    def test_after_a_jump_a_dead_owners_lease_ends_when_it_should(
        self, broker: SQLiteBroker, other: Broker, now: list[float], jump: float
    ) -> None:
        send(broker, "a")
        consume(broker, lease=30.0).take(1, 0)
        now[0] += jump
        running: list[int] = []
        for _ in range(5):
            other.renew(["q"], [], 30.0, 3)
            running.append(other.stats("q").running)
            now[0] += 10.0
        assert running == [1, 1, 1, 0, 0]

    def test_a_delayed_message_is_due_by_the_wall_clock(self, broker: SQLiteBroker, now: list[float]) -> None:
        broker.send([Outgoing("q", message("tomorrow"), 0, now[0] + 24 * HOUR)], 5.0)
        consumer = consume(broker)
        assert consumer.take(1, 0) == []
        now[0] += 24 * HOUR
        assert names(consumer.take(1, 0)) == ["tomorrow"]


class TestCost:
    def steps(self, broker: SQLiteBroker, verb: Callable[[], object]) -> int:
        """How many instructions of SQLite's machine a verb takes: the same on every computer."""
        count = itertools.count()

        def watch(handler: Callable[[], int] | None) -> None:
            broker._file.read(lambda connection: connection.set_progress_handler(handler, 1), 1.0)

        watch(lambda: next(count) < 0)
        verb()
        watch(None)
        return next(count)

    def test_stats_and_takes_cost_the_same_however_long_the_queue_is(self, broker: SQLiteBroker) -> None:
        consumer = consume(broker)
        verbs: list[Callable[[], object]] = [lambda: broker.stats("q"), lambda: consumer.take(1, 0)]
        later = clock.now() + HOUR
        measured: list[list[int]] = []
        for length in (50, 20_000):
            batch = [Outgoing("q", message("x"), i % 2, later if i % 3 else None) for i in range(length)]
            broker.send(batch, 10.0)
            consumer.take(1, 0)
            measured.append([self.steps(broker, verb) for verb in verbs])
        for few, many in zip(*measured, strict=True):
            assert many <= few * 1.2

    def test_the_counters_are_right_after_everything_has_happened(
        self, broker: SQLiteBroker, path: Path
    ) -> None:
        later = clock.now() + HOUR
        broker.send([Outgoing("q", message("x"), 0, later if i % 3 else None) for i in range(60)], 5.0)
        consumer = consume(broker)
        consumer.settle([Settlement(delivery, Ack()) for delivery in consumer.take(5, 0)])
        consumer.take(4, 0)
        stats = broker.stats("q")
        with closing(sqlite3.connect(path)) as connection:
            counted = [
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("ready", "delayed", "running", "dead")
            ]
        assert [stats.ready, stats.delayed, stats.running, stats.dead] == counted == [11, 40, 4, 0]

    def test_waiting_for_a_message_takes_next_to_no_processor_time(self, broker: SQLiteBroker) -> None:
        consumer = consume(broker)
        consumer.take(1, 0)
        began = time.process_time()
        assert consumer.take(1, 1.0) == []
        assert time.process_time() - began < 0.1

    def test_results_stored_by_settlements_are_swept_when_they_have_expired(
        self, broker: SQLiteBroker, path: Path, now: list[float]
    ) -> None:
        consumer = consume(broker)
        for _ in range(4):
            batch = [Outgoing("q", message("x")) for _ in range(600)]
            broker.send(batch, 5.0)
            taken = consumer.take(600, 0)
            consumer.settle([Settlement(d, Ack(), records=[Record(d.key, b"r", 10.0)]) for d in taken])
            now[0] += 20.0
            broker.renew(["q"], ["owner"], 60.0, 3)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM results").fetchone()[0] <= 1200


def test_many_processes_may_make_the_same_file_at_once(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys
        from celeriac.brokers import connect
        sys.stdin.readline()
        connect(sys.argv[1]).queues()
        """
    )
    for place in range(6):
        command = [sys.executable, "-c", program, f"sqlite:///{tmp_path}/{place}.sqlite"]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=30)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 6, said
