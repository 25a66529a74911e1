"""The site: workers of several pools as real processes, the server, and the ways between them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from celeriac.app import Celeriac
from tests import processes
from tests.chaos import load
from tests.chaos.proxy import Network, Proxy
from tests.postgres import PrivatePostgres
from tests.private_rabbitmq import PrivateRabbit
from tests.processes import is_running
from tests.servers import PrivateRedis

ROOT = Path(__file__).parents[2]
#: The workers: what each is for, and its flags.
ROLES = {
    "prefork": ("-P", "prefork", "-c", "3"),
    "recycled": ("-P", "prefork", "-c", "2", "--max-tasks-per-child", "150"),
    "threads": ("-P", "threads", "-c", "5", "--processes", "2"),
    "gevent": ("-P", "gevent", "-c", "20"),
    "asyncio": ("-P", "asyncio", "-c", "50"),
    "solo": ("-P", "solo", "--processes", "2"),
}
#: The worker whose clock jumps.
WRONG_CLOCK = "recycled"
#: A worker is not started anew sooner than so many seconds after the one before it.
_PAUSE = 1.0


class Worker:
    """One worker, from its start until its supervisor is dead. Its processes are one session."""

    def __init__(self, role: str, number: int, process: subprocess.Popen[bytes]) -> None:
        self.role = role
        self.name = f"{role}-{number}@chaos"
        self.process = process
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def templates(self) -> list[int]:
        """The processes that have imported the application."""
        return processes.templates(self.pid) if self.is_alive else []

    def children(self) -> list[int]:
        """The processes that run tasks."""
        return processes.children(self.pid) if self.is_alive else []


class Site:
    """Everything that runs. `server` and `ways` are not there with SQLite."""

    def __init__(self, folder: Path, broker: str, settings: dict[str, Any], network: Network) -> None:
        self.folder = folder
        self.settings = settings
        self.troubles: list[str] = []
        self.workers: list[Worker] = []
        self.server: PrivateRedis | PrivatePostgres | PrivateRabbit | None = None
        self.ways: dict[str, Proxy] = {}
        self._number = 0
        self._sessions: list[int] = []
        self._ended: set[str] = set()
        self._url = f"sqlite:///{folder}/queue.sqlite"
        if broker == "redis":
            (folder / "redis").mkdir()
            self.server = PrivateRedis(folder / "redis", appendonly=True)
        elif broker == "postgres":
            self.server = PrivatePostgres()
        elif broker == "rabbitmq":
            (folder / "rabbitmq").mkdir()
            self.server = PrivateRabbit(folder / "rabbitmq")
        if self.server is not None:
            self.ways = {role: network.proxy(self.server.port) for role in [*ROLES, "sender"]}
        # What crashes here by right leaves no core.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

    def url(self, who: str) -> str:
        """The broker as that worker, or the sender, reaches it; as nobody disturbs it for any other name."""
        if self.server is None:
            return self._url
        url = self.server.url
        return url.replace(f":{self.server.port}/", f":{self.ways[who].port}/") if who in self.ways else url

    def start(self) -> None:
        """Start every worker. Returns when all have children."""
        self.workers = [self._start(role) for role in ROLES]
        for worker in self.workers:
            wait_until(worker.children, partial(self._log, worker))

    def revive(self) -> None:
        """Start workers anew whose supervisor is dead, not too soon after each other."""
        for place, worker in enumerate(self.workers):
            if not worker.is_alive and time.monotonic() > worker.started_at + _PAUSE:
                code = worker.process.returncode
                # Told to stop in the tenth of a second before its program begins, it ends as any process does.
                is_unborn = code == -signal.SIGTERM and not self._log(worker)
                if code not in (0, -signal.SIGKILL) and not is_unborn:
                    self.troubles.append(f"{worker.name} ended with {code}: {self._log(worker)[-400:]}")
                self.workers[place] = self._start(worker.role)

    def busy(self, app: Celeriac) -> list[str]:
        """What waits or runs, in words; none where nothing does."""
        if isinstance(self.server, PrivateRabbit):
            # Its broker cannot tell what is delayed or held.
            work = self.server.work()
            return [] if work.is_done else [f"{work}"]
        stats = [app.broker.stats(queue) for queue in load.QUEUES]
        return [f"{one}" for one in stats if one.ready or one.delayed or one.running]

    def set_clock(self, offset: float) -> None:
        """By how many seconds the wall clock of the worker `WRONG_CLOCK` is wrong."""
        new = self.folder / "clock.new"
        new.write_text(str(offset))
        new.rename(self.folder / "clock")

    def stop(self) -> None:
        """Stop every worker in order; what is left of them after that is trouble, and is ended."""
        for worker in self.workers:
            if worker.is_alive:
                worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                code = worker.process.wait(30.0)
            except subprocess.TimeoutExpired:
                self.troubles.append(f"{worker.name} does not stop: {self._log(worker)[-400:]}")
            else:
                if code:
                    self.troubles.append(f"{worker.name} stopped with {code}: {self._log(worker)[-400:]}")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.left(), timeout=5.0)
        if left := self.left():
            self.troubles.append("processes were left: " + ", ".join(f"{pid} {command(pid)}" for pid in left))

    def close(self) -> None:
        """End what is left, at once."""
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for worker in self.workers:
            worker.process.wait(10.0)
        if self.server is not None:
            self.server.close()

    def left(self) -> list[int]:
        """The processes of all workers that there ever were which still live."""
        return [pid for pid in _processes() if _session(pid) in self._sessions and is_running(pid)]

    def _start(self, role: str) -> Worker:
        self._number += 1
        name = f"{role}-{self._number}"
        environ = processes.bare_environ()
        path = [str(ROOT), *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])]
        if role == WRONG_CLOCK:
            path.insert(0, str(ROOT / "tests/worker/jumping_clock"))
            environ["CLOCK_OFFSET"] = str(self.folder / "clock")
        environ |= {
            "PYTHONPATH": os.pathsep.join(path), load.FOLDER_VARIABLE: str(self.folder),
            load.BROKER_VARIABLE: self.url(role), load.SETTINGS_VARIABLE: json.dumps(self.settings),
        }  # fmt: skip
        with (self.folder / f"log-{name}").open("wb") as log:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "celeriac", "-A", "tests.chaos.load", "worker", "-l", "WARNING",
                    "-n", f"{name}@chaos", "-Q", ",".join(load.QUEUES), *ROLES[role],
                ],
                env=environ, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._sessions.append(process.pid)
        return Worker(role, self._number, process)

    def _log(self, worker: Worker) -> str:
        return (self.folder / f"log-{worker.name.partition('@')[0]}").read_text(errors="replace")


def wait_until(condition: Callable[[], object], told: Callable[[], str] = str, timeout: float = 60.0) -> None:
    """Wait until something is so. Raises: AssertionError, with what is told, when it is not in time."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"not within {timeout:g} s: {told()}"
        time.sleep(0.05)


def command(pid: int) -> str:
    """What the process was started as."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "ended"


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return -1
