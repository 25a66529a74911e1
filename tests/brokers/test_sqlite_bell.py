"""Who waits for a change of an SQLite file is woken by the commit. Nobody here asks again by himself for an hour."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.drivers.bell import Bell
from tests.brokers.test_sqlite_file import end, line, send, start

ROUNDS = 10  # as in HEAD
#: What a waiting process begins with. `wait` says so when it has seen the file, and when somebody has changed it. One
#: that hears nothing ends after a minute.
HEAD = """
    import os, signal, threading
    from celeriac.drivers import sqlite
    from celeriac.urls import parse
    HOUR, ROUNDS = 3600.0, 10
    signal.alarm(60)
    sqlite.BELL_POLL = HOUR
    file = sqlite.SQLiteFile.of(parse(sys.argv[1]), {})
    def tell(*words):
        os.write(1, (" ".join(words) + "\\n").encode())
    def wait(name):
        seen = file.version(5.0)
        tell(name, "waits")
        file.wait(seen, HOUR, lambda: False)
        tell(name, "heard")
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="bells are heard on Linux; elsewhere one asks"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def broker(path: Path) -> Iterator[Broker]:
    with closing(connect(f"sqlite:///{path}")) as broker:
        send(broker, "first")
        yield broker


@pytest.fixture
def run(path: Path, broker: Broker) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that waits as its code says, and ends it."""
    processes: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        processes.append(start(HEAD + code, f"sqlite:///{path}"))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        end(process)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    return sorted(line(process) for _ in range(count))


def test_a_commit_of_another_process_wakes(
    broker: Broker, run: Callable[[str], subprocess.Popen[str]]
) -> None:
    waiters = [run("    while True: wait('one')") for _ in range(2)]
    for number in range(ROUNDS):
        assert [line(one) for one in waiters] == ["one waits"] * 2
        send(broker, str(number))
        assert [line(one) for one in waiters] == ["one heard"] * 2


def test_all_threads_hear_whoever_of_them_listens(
    broker: Broker, run: Callable[[str], subprocess.Popen[str]]
) -> None:
    waiter = run("""
    while True:
        threads = [threading.Thread(target=wait, args=(name,)) for name in "abc"]
        for one in threads: one.start()
        for one in threads: one.join()
    """)
    for number in range(ROUNDS):
        assert lines(waiter, 3) == ["a waits", "b waits", "c waits"]
        send(broker, str(number))
        assert lines(waiter, 3) == ["a heard", "b heard", "c heard"]


def test_who_was_listening_and_ends_leaves_it_to_another(
    broker: Broker, run: Callable[[str], subprocess.Popen[str]]
) -> None:
    waiter = run("""
    while True:
        seen, is_called = file.version(5.0), threading.Event()
        called = threading.Thread(target=file.wait, args=(seen, HOUR, is_called.is_set))
        called.start()
        other = threading.Thread(target=wait, args=("other",))
        other.start()
        is_called.set()
        file.wake()
        called.join()
        tell("called ends")
        other.join()
    """)
    for number in range(ROUNDS):
        assert lines(waiter, 2) == ["called ends", "other waits"]
        send(broker, str(number))
        assert line(waiter) == "other heard"


def test_parent_and_child_of_a_fork_both_hear(
    broker: Broker, run: Callable[[str], subprocess.Popen[str]]
) -> None:
    waiter = run("""
    wait("first")
    name = "parent" if os.fork() else "child"
    signal.alarm(60)
    for _ in range(ROUNDS): wait(name)
    """)
    assert line(waiter) == "first waits"
    send(broker, "second")
    assert line(waiter) == "first heard"
    assert lines(waiter, 2) == ["child waits", "parent waits"]
    for number in range(ROUNDS - 1):
        send(broker, str(number))
        assert lines(waiter, 4) == ["child heard", "child waits", "parent heard", "parent waits"]
    send(broker, "last")
    assert lines(waiter, 2) == ["child heard", "parent heard"]


def test_a_file_that_replaces_another_is_heard(
    broker: Broker, path: Path, run: Callable[[str], subprocess.Popen[str]]
) -> None:
    waiter = run("    while True: wait('one')")
    for number in range(ROUNDS):
        assert line(waiter) == "one waits"
        broker.close()
        for file in sorted(path.parent.iterdir(), reverse=True):
            file.unlink()
        # The file that goes away is heard too.
        assert [line(waiter), line(waiter)] == ["one heard", "one waits"]
        send(broker, str(number))
        assert line(waiter) == "one heard"


def test_who_cannot_have_a_bell_asks(broker: Broker, run: Callable[[str], subprocess.Popen[str]]) -> None:
    waiter = run("""
    import resource
    import celeriac.drivers.bell
    file.version(5.0)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
    while True: wait('one')
    """)
    for number in range(3):
        assert line(waiter) == "one waits"
        send(broker, str(number))
        assert line(waiter) == "one heard"


def test_a_bell_that_does_not_hear_itself_says_so(broker: Broker, path: Path) -> None:
    def ring() -> None:
        Path(f"{path}-wal").open().close()

    assert Bell(str(path), ring).hears
    assert not Bell(str(path), lambda: None).hears
    assert not Bell(str(path.with_name("another")), ring).hears
