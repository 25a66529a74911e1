"""Everything that can be wrong with what comes in, or with the world: a clear error, a dead letter, nothing lost."""

from __future__ import annotations

import contextlib
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import WAIT, Site, python_path, wait_until
from tests.servers import PrivateRedis
from workload import make_app

from celeriac import message, states
from celeriac.brokers.contract import Outgoing
from celeriac.exceptions import (
    BrokerUnavailable,
    EncodeError,
    MessageTooLarge,
    OperationalError,
    UnknownScheme,
)

#: Seconds that a send may take beyond `broker_publish_timeout` on a loaded machine.
SLACK = 4.0


def assert_unavailable(url: str, timeout: float, match: str | None = None, times: int = 1) -> None:
    """A send there raises BrokerUnavailable in time, the last time as the first."""
    with make_app(url, broker_publish_timeout=timeout) as app:
        for _ in range(times):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=match):
                app.tasks["workload.add"].delay(1, 2)
            assert time.monotonic() - started < timeout + SLACK


# -- brokers that cannot be reached ---------------------------------------------------------------------------


@contextlib.contextmanager
def listener(backlog: int = 100) -> Iterator[tuple[socket.socket, str]]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        yield server, f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_a_send_to_a_broker_that_is_not_there_fails_in_time_and_says_where(closed_port: int):
    assert_unavailable(f"redis://127.0.0.1:{closed_port}/0", 2.0, f"127.0.0.1:{closed_port}.*refused")


def test_the_hundredth_send_fails_as_the_first(closed_port: int):
    assert_unavailable(f"redis://127.0.0.1:{closed_port}/0", 0.02, times=100)


def test_a_server_that_never_answers_does_not_hold_up_a_send():
    with listener() as (_, url):
        assert_unavailable(url, 2.0, "2 s")


def test_a_server_that_never_answers_is_left_in_time_a_hundred_times():
    with listener() as (_, url):
        assert_unavailable(url, 0.02, times=100)


def test_a_server_that_does_not_take_connections_does_not_hold_up_a_send():
    with listener(backlog=0) as (server, url), contextlib.ExitStack() as stack:
        for _ in range(4):  # the backlog is full now: what comes next is not answered at all
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        assert_unavailable(url, 0.5, times=2)


def test_a_name_server_that_hangs_does_not_hold_up_a_send(monkeypatch: pytest.MonkeyPatch):
    released = threading.Event()
    look_up = socket.getaddrinfo

    def hang(host, port, family=0, type=0, proto=0, flags=0):
        if flags & socket.AI_NUMERICHOST:
            return look_up(host, port, family, type, proto, flags)
        released.wait(30)
        raise socket.gaierror("nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        assert_unavailable("redis://broker.example:6379/0", 0.5, r"broker\.example", times=3)
    finally:
        released.set()


def test_a_name_that_does_not_exist_is_told():
    assert_unavailable("redis://no-such-host.invalid/0", 2.0, "no-such-host")


def test_a_broker_that_hangs_does_not_hold_up_a_send(private_redis: PrivateRedis):
    with make_app(private_redis.url, broker_publish_timeout=0.5) as app:
        add = app.tasks["workload.add"]
        add.delay(1)
        with private_redis.frozen():
            for _ in range(3):
                started = time.monotonic()
                with pytest.raises(BrokerUnavailable):
                    add.delay(1)
                assert time.monotonic() - started < 0.5 + SLACK
        add.delay(1)


def test_a_send_survives_a_broker_that_restarts_in_time(private_redis: PrivateRedis):
    with make_app(private_redis.url, broker_publish_timeout=20) as app:
        add = app.tasks["workload.add"]
        add.delay(1)
        private_redis.stop()
        starter = threading.Timer(0.3, private_redis.start)
        starter.start()
        add.delay(1)
        starter.join()
        assert app.broker.stats("celery").ready == 2


def test_a_wrong_password_is_told_without_it(private_redis: PrivateRedis):
    with private_redis.client() as client:
        client.call("CONFIG", "SET", "requirepass", "correct-horse")
    with make_app(f"redis://:s3cret-word@127.0.0.1:{private_redis.port}/0") as app:
        with pytest.raises(OperationalError, match="password") as failure:
            app.tasks["workload.add"].delay(1)
        chain: BaseException | None = failure.value
        while chain is not None:
            assert "s3cret-word" not in f"{chain!s}{chain!r}"
            chain = chain.__cause__


# -- configurations that cannot work --------------------------------------------------------------------------


def run_worker(folder: Path, *flags: str, code: str = "") -> tuple[int, str]:
    """A worker that is expected to end by itself: its exit code, and what it said."""
    (folder / "proj.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "celeriac", "-A", "proj", "worker", *flags],
        cwd=folder, capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_wrong_scheme_is_an_error_that_names_the_right_ones(tmp_path: Path):
    app = make_app("reddis://localhost")
    with pytest.raises(UnknownScheme, match=r"reddis.*redis"):
        app.tasks["workload.add"].delay(1)
    code, said = run_worker(
        tmp_path, code="from celeriac import Celeriac\napp = Celeriac(broker='reddis://:word@h')"
    )
    assert code == 64 and "reddis" in said and "redis" in said and "word" not in said


def test_an_application_that_raises_at_import_ends_the_worker(tmp_path: Path):
    marker = "with open('imports', 'a') as f: f.write('.')\n"
    code, said = run_worker(tmp_path, code=f"{marker}raise RuntimeError('no database here')")
    assert code == 1 and said.count("RuntimeError: no database here") == 1 and "proj.py" in said
    assert (tmp_path / "imports").read_text() == "."


DIES = """
import os, signal
with open('imports', 'a') as f: f.write('.')
if len(open('imports').read()) <= {times}: os.kill(os.getpid(), signal.SIGKILL)
raise RuntimeError('no database here')
"""


def test_an_import_that_is_killed_is_begun_again(tmp_path: Path):
    code, said = run_worker(tmp_path, code=DIES.format(times=2))
    assert code == 1 and "RuntimeError: no database here" in said
    assert (tmp_path / "imports").read_text() == "..."


def test_an_import_that_kills_its_process_each_time_ends_the_worker(tmp_path: Path):
    code, said = run_worker(tmp_path, code=DIES.format(times=100))
    assert code == 1 and "the process that imports the application died" in said
    assert (tmp_path / "imports").read_text() == "....."


def test_an_application_that_exits_at_import_ends_the_worker(tmp_path: Path):
    code, said = run_worker(tmp_path, code="import sys; sys.exit(0)")
    assert code == 1 and "SystemExit" in said


def test_an_application_that_cannot_be_parsed_ends_the_worker(tmp_path: Path):
    code, said = run_worker(tmp_path, code="def broken(:")
    assert code == 1 and "SyntaxError" in said


def test_a_module_without_an_application_ends_the_worker(tmp_path: Path):
    code, said = run_worker(tmp_path, code="x = 1")
    assert code != 0 and "no application was found under 'proj'" in said and "Traceback" not in said


def test_a_module_that_is_not_there_ends_the_worker(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "celeriac", "-A", "nowhere", "worker"],
        cwd=tmp_path, capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "nowhere" in done.stderr


def test_a_misspelt_setting_ends_the_worker(tmp_path: Path):
    code, said = run_worker(
        tmp_path,
        code="from celeriac import Celeriac\napp = Celeriac(broker='sqlite:///q')\napp.conf.task_acks_lat = 1",
    )
    assert code != 0 and "task_acks_late" in said


# -- calls that cannot be sent --------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_refused_by_the_caller(shared: Site):
    with pytest.raises(TypeError):
        shared.send("add", 1, 2, 3)
    with pytest.raises(TypeError):
        shared.send("add", z=1)


def test_arguments_that_do_not_fit_fail_the_task_where_the_caller_does_not_know_it(shared: Site):
    result = shared.app.send_task("workload.add", (1, 2, 3), ignore_result=False)
    with pytest.raises(TypeError, match="positional"):
        result.get(timeout=WAIT)


@pytest.mark.parametrize("serializer", ["msgpack", "json", "yaml", "pickle"])
def test_arguments_that_do_not_travel_are_named_and_nothing_is_sent(site: Site, serializer: str):
    site.app.conf.accept_content = ["msgpack", "json", "yaml", "pickle"]
    with pytest.raises(EncodeError, match=r"workload\.add"):
        site.call("add", threading.Lock(), serializer=serializer)
    assert site.is_empty()


def test_arguments_that_are_too_large_are_refused_with_both_sizes(site: Site):
    site.app.conf.task_message_max_size = 1000
    with pytest.raises(MessageTooLarge, match=r"workload\.add.*1,000"):
        site.send("add", "x" * 1001)
    assert site.is_empty()
    site.send("add", "x" * 500)


def test_pickle_is_refused_where_it_is_not_accepted(site: Site):
    with pytest.raises(Exception, match="pickle"):
        site.call("add", 1, serializer="pickle")
    assert site.is_empty()


# -- messages that are no calls -------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def unreadable(folder: Path) -> dict[str, bytes]:
    """Bytes that are no message for a worker of this version that accepts no pickle."""
    key = message.new_key()
    good = message.encode(message.Message(key, "workload.add", (1, 2)))
    pickled = message.Message(
        message.new_key(),
        "workload.add",
        (Bomb(folder / "exploded"),),
        {},
        message.Options(serializer="pickle"),
    )
    return {
        "nothing": b"",
        "garbage": b"\xff\x00 not a message \xfe" * 3,
        "short garbage": b"\x01xyz",
        "truncated": good[:-4],
        "only a head": good[:17],
        "of a later version": b"\x02" + good[1:],
        "a bare pickle": pickle.dumps(Bomb(folder / "exploded")),
        "a call in pickle": message.encode(pickled, ("pickle",)),
        "json of another tool": b'{"task": "workload.add", "args": [1, 2]}',
        "a task name that is a number": good[:17] + b"\x93\x07\x90\x80",
        "nested too deep": good[:17] + b"\x93\xa1x" + b"\x91" * 100_000,
    }


@pytest.mark.parametrize(
    "flags",
    [("-c", "1"), ("-P", "threads", "-c", "2"), ("-P", "gevent", "-c", "2"), ("-P", "asyncio", "-c", "2")],
    ids=["prefork", "threads", "gevent", "asyncio"],
)
def test_what_is_no_message_is_a_dead_letter_with_its_bytes(site: Site, flags: tuple[str, ...]):
    bad = unreadable(site.folder)
    results = []
    for data in bad.values():
        site.broker.send([Outgoing("celery", data)], 5.0)
        results.append(site.send("add", 1, 2))
    worker = site.worker(*flags)
    assert [result.get(timeout=WAIT) for result in results] == [3] * len(bad)
    letters = site.wait_dead(len(bad))
    assert sorted(letter.data for letter in letters) == sorted(bad.values())
    assert {letter.reason for letter in letters} == {"unreadable"}
    details = {letter.data: letter.detail for letter in letters}
    assert "version 2" in details[bad["of a later version"]]
    assert "pickle" in details[bad["a call in pickle"]]
    assert not (site.folder / "exploded").exists()
    worker.wait_log("Can't decode message")
    site.wait_empty()
    assert worker.stop() == 0


def test_a_task_that_does_not_exist_is_a_dead_letter_after_its_grace(site: Site):
    result = site.app.send_task("workload.no_such_task", (1,))
    other = site.send("add", 1, 2)
    worker = site.worker("-c", "1", task_unknown_grace=0.4)
    assert other.get(timeout=WAIT) == 3
    (letter,) = site.wait_dead()
    assert letter.reason == "unknown task" and "workload.no_such_task" in letter.detail
    assert message.decode(letter.data).id == result.id
    worker.wait_log("Received unregistered task of type 'workload.no_such_task'")


def test_a_task_that_only_new_workers_know_waits_for_them(site: Site):
    old = site.worker("-c", "1", environ={"WORKLOAD_WITHOUT": "add"}, task_unknown_grace=60)
    result = site.send("add", 1, 2)
    old.wait_log("put back for other workers")
    site.worker("-c", "1")
    # Neither does the old one take it again and again, although it is the first to look.
    assert result.get(timeout=WAIT) == 3
    assert site.stats().dead == 0


# -- brokers that refuse --------------------------------------------------------------------------------------


@pytest.fixture
def redis_site(private_redis: PrivateRedis, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, private_redis.url)
    yield site
    site.close()


def test_a_full_redis_fails_a_send_in_time_with_advice(redis_site: Site, private_redis: PrivateRedis):
    redis_site.send("add", 1)
    with private_redis.client() as client:
        client.call("CONFIG", "SET", "maxmemory", "1")
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"OOM.*maxmemory"):
            redis_site.send("add", 1)
        assert time.monotonic() - started < 2.0 + SLACK
        client.call("CONFIG", "SET", "maxmemory", "0")
    redis_site.send("add", 1)
    assert redis_site.stats().ready == 2


def test_a_full_redis_loses_no_task_and_no_result(redis_site: Site, private_redis: PrivateRedis):
    worker = redis_site.worker("-c", "1")
    running = redis_site.send("holds", "gate")
    waiting = [redis_site.send("add", n) for n in range(20)]
    redis_site.wait_note(running, "start")
    with private_redis.client() as client:
        client.call("CONFIG", "SET", "maxmemory", "1")
        redis_site.open("gate")
        worker.wait_log("OOM")
        client.call("CONFIG", "SET", "maxmemory", "0")
    running.get(timeout=WAIT)
    assert [result.get(timeout=WAIT) for result in waiting] == list(range(1, 21))
    redis_site.wait_empty()
    assert all(len(redis_site.notes(result, "add")) == 1 for result in waiting)
    assert len(redis_site.notes(running, "start")) == 1 and redis_site.stats().dead == 0
    assert worker.stop() == 0


def test_a_read_only_replica_refuses_a_send_with_advice(
    redis_site: Site, private_redis: PrivateRedis, closed_port: int
):
    redis_site.send("add", 1, 2)
    with private_redis.client() as client:
        client.call("REPLICAOF", "127.0.0.1", str(closed_port))
        client.call("CONFIG", "SET", "replica-serve-stale-data", "yes")
        started = time.monotonic()
        with pytest.raises(OperationalError, match=r"READONLY.*primary"):
            redis_site.send("add", 1)
        assert time.monotonic() - started < 2.0 + SLACK
        worker = redis_site.worker("-c", "1", ready=False)
        worker.wait_log("READONLY")
        client.call("REPLICAOF", "NO", "ONE")
    assert redis_site.send("add", 1, 2).get(timeout=WAIT) == 3
    redis_site.wait_empty()
    assert len(redis_site.notes(what="add")) == 2 and worker.stop() == 0


@contextlib.contextmanager
def locked(site: Site) -> Iterator[None]:
    """Another program writes to the SQLite file and does not come to an end."""
    with contextlib.closing(sqlite3.connect(site.folder / "queue.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA busy_timeout = 10000")
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_locked_file_fails_a_send_in_time(sqlite_site: Site):
    sqlite_site.send("add", 1)
    with locked(sqlite_site):
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="lock"):
            sqlite_site.send("add", 1)
        assert 1.0 < time.monotonic() - started < 2.0 + SLACK
    sqlite_site.send("add", 1)
    assert sqlite_site.stats().ready == 2


def test_a_locked_file_loses_no_task(sqlite_site: Site):
    worker = sqlite_site.worker("-c", "2", worker_lease=2.0)
    running = sqlite_site.send("holds", "gate")
    others = [sqlite_site.send("sleeps", 0.01) for _ in range(20)]
    sqlite_site.wait_note(running, "start")
    with locked(sqlite_site):
        sqlite_site.open("gate")
        worker.wait_log("Cannot connect to")
    running.get(timeout=WAIT)
    assert {result.get(timeout=WAIT) for result in others} == {"slept"}
    sqlite_site.wait_empty()
    assert len(sqlite_site.notes(what="start")) == 21 and sqlite_site.stats().dead == 0
    assert worker.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is soon full."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only the superuser may mount a small file system")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_refuses_a_send_and_loses_nothing(small_disk: Path, tmp_path: Path):
    with contextlib.closing(Site(tmp_path, f"sqlite:///{small_disk}/queue.sqlite")) as site:
        sent = [site.send("add", 1)]
        with pytest.raises(OperationalError, match=r"disk.* full"):
            for _ in range(500):
                sent.append(site.send("add", "x" * 2000, "y"))
        with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 512)
        worker = site.worker("-c", "1", ready=False)
        worker.wait_log("full")
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        wait_until(site.is_empty, site.told)
        assert len(site.notes(what="add")) == len(sent)
        assert sent[0].get(timeout=WAIT) == 2 and worker.stop() == 0


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path):
    path = tmp_path / "thesis.txt"
    path.write_text("years of work\n" * 100)
    with make_app(f"sqlite:///{path}") as app, pytest.raises(OperationalError, match=r"thesis\.txt"):
        app.tasks["workload.add"].delay(1)
    assert path.read_text() == "years of work\n" * 100


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    with make_app(f"sqlite:///{tmp_path}/no/such/queue.sqlite") as app:
        with pytest.raises(OperationalError, match="directory"):
            app.tasks["workload.add"].delay(1)


# -- clocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [3600, -3600], ids=["forward", "backward"])
def test_a_clock_that_jumps_neither_loses_nor_doubles_a_task(site: Site, offset: int):
    clock = site.folder / "clock"
    environ = {
        "CLOCK_OFFSET": str(clock),
        "PYTHONPATH": python_path(Path(__file__).parent / "jumping_clock"),
    }
    workers = [site.worker("-c", "1", environ=environ, worker_lease=1.0) for _ in range(2)]
    running = site.send("holds", "gate")
    site.wait_note(running, "start")
    (site.folder / "clock.new").write_text(str(offset))
    (site.folder / "clock.new").rename(clock)
    # Two leases long, by the clock that never jumps, other tasks run as ever and this one runs once.
    until = time.monotonic() + 2.2
    while time.monotonic() < until:
        assert site.send("add", 1, 2).get(timeout=WAIT) == 3
    site.open("gate")
    running.get(timeout=WAIT)
    assert running.state == states.SUCCESS and len(site.notes(running, "start")) == 1
    site.wait_empty()
    assert site.stats().dead == 0
    assert [worker.stop() for worker in workers] == [0, 0]


def test_wait_until_says_what_it_waited_for():
    with pytest.raises(AssertionError, match="the reason"):
        wait_until(lambda: False, lambda: "the reason", timeout=0.0)
