"""`python -m tests.soak --minutes 10 --broker redis`: a working day within minutes, and what it leaves in processes.

Workers of every pool run a load of all kinds of tasks, as many as a day would bring, in cycles: twenty seconds of
load, then a quiet stretch when all has ended, in which every process is looked at and the commands of the idle worker
are counted. At the end each process is judged: its memory after warm-up is flat and its connections are few (P12), and
an idle worker is quiet (P13). The exit code is 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from celeriac.app import Celeriac
from celeriac.pools import POOLS
from tests import processes
from tests.chaos.site import wait_until
from tests.processes import is_running
from tests.servers import PrivateRedis
from tests.soak import load, verdict, watch
from tests.soak.verdict import Process, Stretch

ROOT = Path(__file__).parents[2]
#: Results and errors live for so many seconds here: a store that has filled up ends nothing.
SETTINGS = {"result_expires": 20.0, "worker_max_age_per_child": None}
LOAD_SECONDS, QUIET_SECONDS, DRAIN_SECONDS = 20.0, 6.0, 120.0
#: A cycle is shorter where there is little time: so many there are at least.
LEAST_CYCLES = 9
_TICK = 0.1


def flags() -> dict[str, tuple[str, ...]]:
    """A worker for each pool there is, and its flags: two children, or twenty slots, or one of each."""
    found, seen = {}, set()
    for name, spec in POOLS.items():
        if spec not in seen:
            seen.add(spec)
            concurrency = (
                "2" if spec.processes == "concurrency" else "20" if spec.slots == "concurrency" else "1"
            )
            found[name] = ("-P", name, "-c", concurrency)
    return found


class Soak:
    """Workers, the server, and what was seen of them."""

    def __init__(self, folder: Path, broker: str, pools: list[str]) -> None:
        self.folder = folder
        self.pools = pools
        self.file = folder / "queue.sqlite"
        self.server: PrivateRedis | None = None
        self.url = f"sqlite:///{self.file}"
        if broker == "redis":
            (folder / "redis").mkdir()
            self.server = PrivateRedis(folder / "redis")
            self.url = self.server.url
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.processes: list[Process] = []
        #: Commands by process in all quiet stretches after warm-up, which lasted `listened` seconds.
        self.commands: Counter[int] = Counter()
        self.listened = 0.0
        self.sent: Counter[str] = Counter()

    @property
    def port(self) -> int | None:
        return None if self.server is None else self.server.port

    def start(self) -> None:
        """Start every worker. Returns when all are ready."""
        for name, given in flags().items():
            if name in self.pools:
                self.workers[name] = self._start(name, given)
        for name, process in self.workers.items():
            wait_until(partial(self._is_ready, name), partial(self.log, name))
            self.processes.append(Process(name, "supervisor", process.pid))
            children = processes.children(process.pid)
            if len(children) > 1:
                # That of one child ends when it has not been needed for a while.
                self.processes += [Process(name, "template", pid) for pid in processes.templates(process.pid)]
            self.processes += [Process(name, "child", pid) for pid in children]

    def _start(self, name: str, given: tuple[str, ...]) -> subprocess.Popen[bytes]:
        environ = processes.bare_environ()
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ |= {
            "PYTHONPATH": os.pathsep.join(path), load.BROKER_VARIABLE: self.url,
            load.SETTINGS_VARIABLE: json.dumps(SETTINGS),
        }  # fmt: skip
        with (self.folder / f"log-{name}").open("wb") as log:
            return subprocess.Popen(
                [
                    sys.executable, "-m", "celeriac", "-A", "tests.soak.load", "worker", "-l", "INFO",
                    "-n", f"{name}@soak", "-Q", name, *given,
                ],
                env=environ, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _is_ready(self, name: str) -> bool:
        return f"{name}@soak ready." in self.log(name)

    def log(self, name: str) -> str:
        return (self.folder / f"log-{name}").read_text(errors="replace")

    def run(self, seconds: float, rate: float) -> None:
        """Cycles of load and quiet for so long; `rate`: calls a second to each worker under load."""
        connections = watch.Connections([one.pid for one in self.processes], self.port, self.file)
        connections.start()
        started = time.monotonic()
        cycle = min(LOAD_SECONDS, seconds / LEAST_CYCLES - QUIET_SECONDS)
        warm_up = started + seconds / 3
        while time.monotonic() < started + seconds:
            with load.make_app(self.url, **SETTINGS) as app:
                self._load(app, cycle, rate)
                self._drain(app)
            self._rest(started, counts=time.monotonic() > warm_up)
        connections.end()
        for one in self.processes:
            one.most_connections = connections.most[one.pid]

    def _load(self, app: Celeriac, seconds: float, rate: float) -> None:
        kinds, weights = list(load.WEIGHTS), list(load.WEIGHTS.values())
        draw = random.Random(sum(self.sent.values()))
        began, ticks = time.monotonic(), 0
        while (now := time.monotonic() - began) < seconds:
            for name in self.workers:
                chosen = draw.choices(kinds, weights, k=max(1, round(rate * _TICK)))
                self.sent[name] += load.send(app, chosen, self.sent[name], name)
            ticks += 1
            time.sleep(max(0.0, ticks * _TICK - now))

    def _drain(self, app: Celeriac) -> None:
        def is_empty() -> bool:
            stats = [app.broker.stats(name) for name in self.workers]
            return not any(one.ready or one.delayed or one.running for one in stats)

        wait_until(is_empty, lambda: str([app.broker.stats(name) for name in self.workers]), DRAIN_SECONDS)

    def _rest(self, started: float, *, counts: bool) -> None:
        """A quiet stretch: listen for commands, then look at every process."""
        # The last acknowledgements are out; what supervisors do about that settles within a second.
        time.sleep(1.0)
        before = {one.pid: watch.look(one.pid) for one in self.processes}
        since = time.monotonic()
        if self.server is None:
            time.sleep(QUIET_SECONDS)
        else:
            heard = Counter(port for port, _ in self.server.commands(QUIET_SECONDS))
            if counts:
                self.listened += QUIET_SECONDS
                for one in self.processes:
                    self.commands[one.pid] += sum(
                        heard[port] for port in watch.ports(one.pid, self.server.port)
                    )
        now = time.monotonic()
        for one in self.processes:
            first, last = before[one.pid], watch.look(one.pid)
            if first is None or last is None:
                raise RuntimeError(
                    f"{one.worker}: {one.role} {one.pid} is gone:\n{self.log(one.worker)[-2000:]}"
                )
            idle = (last.cpu - first.cpu) / (now - since)
            one.stretches.append(Stretch(now - started, self.sent[one.worker], last, idle))

    def rates(self) -> dict[int, float] | None:
        """Commands a second of each process when idle; None where no server saw them."""
        if not self.listened:
            return None
        return {one.pid: self.commands[one.pid] / self.listened for one in self.processes}

    def stop(self) -> list[str]:
        """Stop every worker in order. Returns what went wrong with that."""
        troubles = []
        for process in self.workers.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self.workers.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30.0)
            if process.returncode != 0:
                troubles.append(f"{name} stopped with {process.returncode}: {self.log(name)[-400:]}")
        return troubles

    def close(self) -> None:
        """End what is left, at once."""
        for process in self.workers.values():
            for pid in [process.pid, *(one.pid for one in self.processes)]:
                if is_running(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            process.wait(10.0)
        if self.server is not None:
            self.server.kill()


def run(folder: Path, broker: str, pools: list[str], seconds: float, rate: float) -> tuple[str, list[str]]:
    """Everything, from the first worker's start to the table and what was broken."""
    soak = Soak(folder, broker, pools)
    try:
        soak.start()
        soak.run(seconds, rate)
        troubles = soak.stop()
    finally:
        soak.close()
    rates = soak.rates()
    by_worker: dict[str, float] | None = None
    if rates is not None:
        by_worker = {
            name: sum(rates[one.pid] for one in soak.processes if one.worker == name) for name in soak.workers
        }
    return verdict.table(soak.processes, rates), verdict.broken(soak.processes, by_worker) + troubles


def main(arguments: list[str]) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--broker", choices=("redis", "sqlite"), default="redis")
    parser.add_argument("--pools", nargs="+", choices=list(flags()), default=list(flags()))
    parser.add_argument("--rate", type=float, default=200.0, help="calls a second to each worker under load")
    parser.add_argument("--folder", type=Path, default=None, help="keep logs here")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        if given.folder is not None:
            given.folder.mkdir(parents=True)
        told, broken = run(
            given.folder or Path(folder), given.broker, given.pools, given.minutes * 60, given.rate
        )
    print(f"{given.broker}, {time.monotonic() - started:.0f} s\n\n{told}\n")
    print("\n".join(f"BROKEN: {one}" for one in broken) or "every promise was kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
