"""Workers as real processes: starts them, reads what their tasks noted and what they logged, and ends them.

    site = Site(tmp_path, "sqlite:///...")
    worker = site.worker("-c", "2", worker_lease=2)
    assert site.send("add", 1, 2).get(timeout=WAIT) == 3
    assert worker.stop() == 0

Nothing here sleeps for a fixed time: everything waits for something, with a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import workload
from tests import processes
from tests.ports import free_port
from tests.processes import is_running

from celeriac import urls
from celeriac.async_result import AsyncResult
from celeriac.brokers.contract import Broker, DeadLetter, QueueStats

#: Seconds after which something that should have happened will not any more; long, for machines under load.
WAIT = 30.0


#: Rows where a transaction has written to a table of that schema and has not ended.
_IS_WRITING = """
    SELECT 1 FROM pg_locks JOIN pg_class ON pg_class.oid = relation JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = %s AND mode LIKE '%%Exclusive%%' LIMIT 1
"""


class Site:
    """A broker, an application in this process that sends to it, and the workers that take from it."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        """`settings` are those of the application, here and in every worker."""
        self.folder = folder
        self.url = url
        self.settings = settings
        self.app = workload.make_app(url, **settings)
        self.workers: list[Worker] = []

    def worker(
        self, *flags: str, ready: bool = True, environ: dict[str, str] | None = None, **settings: Any
    ) -> Worker:
        """Start a worker; return when it takes messages, unless `ready` is False."""
        worker = Worker(self, len(self.workers) + 1, flags, settings, environ or {})
        self.workers.append(worker)
        if ready:
            worker.wait_ready()
        return worker

    # -- sending --------------------------------------------------------------------------------------------

    def send(self, name: str, *args: Any, **kwargs: Any) -> AsyncResult:
        """`delay` of a task."""
        return self.task(name).delay(*args, **kwargs)

    def call(self, name: str, *args: Any, **options: Any) -> AsyncResult:
        """`apply_async` of a task."""
        return self.task(name).apply_async(args, **options)

    def task(self, name: str) -> Any:
        """The task of that name."""
        return self.app.tasks[f"workload.{name}"]

    def open(self, gate: str) -> None:
        """Let the tasks go on that wait for this gate."""
        (self.folder / gate).touch()

    # -- looking --------------------------------------------------------------------------------------------

    @property
    def broker(self) -> Broker:
        return self.app.broker

    def stats(self, queue: str = "celery") -> QueueStats:
        """Counts of a queue."""
        return self.broker.stats(queue)

    def is_empty(self, queue: str = "celery") -> bool:
        """Whether nothing waits or runs; of a broker that cannot tell of both, whether nothing is ready."""
        stats = self.stats(queue)
        return not (stats.ready or stats.delayed or stats.running)

    def is_held_up(self) -> bool:
        """Whether somebody is in the middle of a write to the broker's database."""
        where = urls.parse(self.url)
        if where.scheme == "sqlite":
            with contextlib.closing(
                sqlite3.connect(self.folder / "queue.sqlite", isolation_level=None)
            ) as other:
                other.execute("PRAGMA busy_timeout = 0")
                try:
                    other.execute("BEGIN IMMEDIATE")
                    other.execute("ROLLBACK")
                except sqlite3.OperationalError:
                    return True
        if where.scheme == "postgresql":
            with psycopg.connect(self.url.partition("?")[0]) as other:
                # What its server still does without it comes to an end.
                return any(other.execute(_IS_WRITING, [where.query["schema"]]).fetchall())
        return False

    def wait_empty(self, queue: str = "celery") -> None:
        """Wait until everything has ended."""
        wait_until(lambda: self.is_empty(queue), lambda: self.told(queue))

    def wait_dead(self, count: int = 1, queue: str = "celery") -> list[DeadLetter]:
        """Wait for that many dead letters."""
        wait_until(lambda: self.stats(queue).dead >= count, lambda: self.told(queue))
        return self.broker.dead(queue)

    def notes(self, result: AsyncResult | None = None, what: str | None = None) -> list[dict[str, Any]]:
        """What tasks have noted, in the order of writing: of one call, of one kind, or all."""
        with contextlib.suppress(FileNotFoundError):
            # The last line may be read while it is written, where it passes the end of a page.
            whole = (self.folder / "notes").read_text().rpartition("\n")[0]
            found = [json.loads(line) for line in whole.splitlines()]
            return [
                line for line in found
                if (result is None or line["id"] == result.id) and (what is None or line["what"] == what)
            ]  # fmt: skip
        return []

    def wait_note(
        self, result: AsyncResult | None, what: str, count: int = 1, timeout: float = WAIT
    ) -> dict[str, Any]:
        """Wait until a task has noted that, `count` times; the last of these notes."""
        wait_until(lambda: len(self.notes(result, what)) >= count, self.told, timeout)
        return self.notes(result, what)[count - 1]

    def told(self, queue: str = "celery") -> str:
        """Everything that is known, for the message of a test that fails."""
        logs = "\n".join(f"-- worker {worker.number}\n{worker.log()}" for worker in self.workers)
        try:
            stats: Any = self.stats(queue)
        except Exception as exc:
            stats = repr(exc)
        return f"{stats}\n{self.notes()}\n{logs}"

    def close(self) -> None:
        """End every worker, and close the connections of this process."""
        for worker in self.workers:
            worker.kill()
        self.app.close()


class Worker:
    """`python -m celeriac -A workload worker`, as a process with a log file."""

    def __init__(
        self, site: Site, number: int, flags: tuple[str, ...], settings: dict[str, Any], more: dict[str, str]
    ) -> None:
        """`settings` and `more`, environment variables, are over the site's own."""
        self.site = site
        self.number = number
        self.log_path = site.folder / f"worker-{number}.log"
        environ = processes.bare_environ()
        environ |= {
            "PYTHONPATH": python_path(), "WORKLOAD_FOLDER": str(site.folder),
            "WORKLOAD_BROKER": site.url, "WORKLOAD_SETTINGS": json.dumps({**site.settings, **settings}),
            **more,
        }  # fmt: skip
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "celeriac", "-A", "workload", "worker", "-l", "INFO",
                    "-n", f"w{number}@test", *flags,
                ],
                env=environ, cwd=site.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    # -- looking --------------------------------------------------------------------------------------------

    def log(self) -> str:
        """The lines that it has written; the last one may be read while it is."""
        return "".join(self.log_path.read_text(errors="replace").rpartition("\n")[:2])

    def wait_log(self, text: str, timeout: float = WAIT) -> None:
        """Wait until it has written that."""
        wait_until(lambda: text in self.log(), lambda: f"no {text!r} in:\n{self.log()}", timeout)

    def wait_ready(self) -> None:
        """Wait until all its children take messages."""

        def is_ready() -> bool:
            assert self.process.poll() is None, f"exit code {self.process.returncode}:\n{self.log()}"
            return f"w{self.number}@test ready." in self.log()

        wait_until(is_ready, self.log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def template(self) -> int:
        """The process that has imported the application."""
        (template,) = processes.templates(self.pid)
        return template

    def children(self) -> list[int]:
        """The processes that run tasks."""
        return processes.children(self.pid)

    def tree(self) -> list[int]:
        """All its processes, the supervisor first."""
        found = [self.pid]
        for pid in found:
            found += processes.offspring(pid)
        return found

    # -- ending ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def paused(self) -> Iterator[list[int]]:
        """All its processes stand still, as where a machine sleeps: none of them in the middle of a write, in which it
        would hold up everybody else on this machine. Which processes."""
        pids = self.tree()
        try:
            until = time.monotonic() + WAIT
            while True:
                _signal_all(pids, signal.SIGSTOP)
                if not self.site.is_held_up():
                    break
                assert time.monotonic() < until, (
                    f"in the middle of a write whenever it is looked at:\n{self.log()}"
                )
                _signal_all(pids, signal.SIGCONT)
            yield pids
        finally:
            _signal_all(pids, signal.SIGCONT)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def exit_code(self, timeout: float = WAIT) -> int:
        """How it ended, once it has."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {timeout:g} s:\n{self.log()}") from None

    def ask_to_stop(self, number: signal.Signals = signal.SIGTERM, children: int = 1) -> None:
        """Send it that signal; returns when so many children have heard of it. It must log at DEBUG."""
        self.send_signal(number)
        wait_until(lambda: self.log().count("told to stop: takes nothing more") == children, self.log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it in order; its exit code."""
        self.send_signal(number)
        return self.exit_code()

    def kill(self) -> None:
        """End all its processes at once, as a power cut would. Nothing happens where it has ended."""
        if self.process.poll() is None:
            pids = self.tree()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(WAIT)
            wait_until(lambda: not any(map(is_running, pids)), lambda: f"still there: {pids}")


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def python_path(*first: Path) -> str:
    """Where a worker looks for modules: in these folders, in this one, and where this process was told to look."""
    return os.pathsep.join(
        map(str, filter(None, [*first, Path(__file__).parent, os.environ.get("PYTHONPATH")]))
    )


def wait_until(condition: Callable[[], Any], told: Callable[[], str] = str, timeout: float = WAIT) -> None:
    """Wait until something is so. Raises: AssertionError, with what is told, when it is not in time."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"not within {timeout:g} s: {told()}"
        time.sleep(0.01)


class Probe:
    """Asks one worker how it is."""

    def __init__(self) -> None:
        self.port = free_port()
        self.flags = ("--health", f"127.0.0.1:{self.port}")

    def get(self, path: str) -> tuple[int, str]:
        """The status and the text; (0, "") where nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode().rstrip("\n")
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode().rstrip("\n")
        except OSError:
            return 0, ""

    def wait(self, path: str, status: int, text: str, timeout: float = WAIT) -> float:
        """Wait until it answers so; how long that took."""
        started = time.monotonic()
        wait_until(
            lambda: (found := self.get(path))[0] == status and text in found[1],
            lambda: f"{path}: {self.get(path)}",
            timeout,
        )
        return time.monotonic() - started

    def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """Everything that is answered to these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), WAIT) as conn:
            # Who is not listened to any more may find that out while he still speaks.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                conn.sendall(data)
                if end:
                    conn.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                return b"".join(iter(lambda: conn.recv(65536), b""))
            return b""
