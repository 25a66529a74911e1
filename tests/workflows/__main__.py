"""`python -m tests.workflows --seed 7 --workflows 1000`: random workflows on workers whose children are killed.

Each must come to its end: the last step or the error callback runs, once; every task that should have run has, with
the right value at the end; and nothing is left in the broker or in the store. The exit code is 1 where that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from celeriac import message, states, stored
from celeriac.app import Celeriac
from tests import processes
from tests.chaos.site import ROOT, wait_until
from tests.postgres import PrivatePostgres
from tests.servers import PrivateRedis, RedisClient
from tests.workflows import load, plan

SETTINGS: Mapping[str, Any] = {
    "worker_lease": 3.0,
    "task_max_deliveries": 100,
    "worker_shutdown_timeout": 5.0,
}
#: Workers, which differ in how they run and settle.
POOLS = (("-P", "prefork", "-c", "3"), ("-P", "threads", "-c", "4", "--processes", "2"))
#: A child is killed every so many seconds, on average, if so many runs have begun since the last was: on a slow machine
#: children would do nothing but start.
_BETWEEN, _RUNS_BETWEEN = 0.1, 10


@dataclass(frozen=True)
class Options:
    """What is to be done. `drain`: so many seconds has what is left when all is sent."""

    workflows: int
    seed: int
    broker: str = "redis"
    kills: bool = True
    drain: float = 120.0


@dataclass(frozen=True)
class Run:
    """One line of a diary: that a run began."""

    what: str
    number: int
    task_id: str
    pid: int


class Killer(threading.Thread):
    """Kills a child of a worker, again and again, until it is told to stop."""

    def __init__(self, supervisors: Sequence[int], seed: int, folder: Path) -> None:
        """`folder`: where the runs write that they have begun."""
        super().__init__(name="killer", daemon=True)
        self.killed: set[int] = set()
        self._supervisors = supervisors
        self._folder = folder
        self._begun = 0
        self._draw = random.Random(f"kills {seed}")
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._draw.expovariate(1 / _BETWEEN)):
            begun = len(_diaries(self._folder))
            if begun < self._begun + _RUNS_BETWEEN:
                continue
            self._begun = begun
            children = [child for pid in self._supervisors for child in processes.children(pid)]
            if children:
                victim = self._draw.choice(children)
                self.killed.add(victim)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

    def finish(self) -> None:
        """Kill nobody any more."""
        self._over.set()
        self.join()


def run(options: Options, folder: Path) -> list[str]:
    """Everything, from the first worker's start to the judgement: what is wrong, in words."""
    flows = plan.draw(options.seed, options.workflows)
    server: PrivateRedis | PrivatePostgres | None = None
    if options.broker == "redis":
        server = PrivateRedis(folder)
    elif options.broker == "postgres":
        server = PrivatePostgres()
    url = server.url if server is not None else f"sqlite:///{folder}/queue.sqlite"
    workers = [_start(folder, url, number, flags) for number, flags in enumerate(POOLS)]
    try:
        wait_until(lambda: all(processes.children(one.pid) for one in workers))
        killer = Killer([one.pid for one in workers], options.seed, folder)
        if options.kills:
            killer.start()
        with load.make_app(url, **SETTINGS) as app:
            ids = [load.signature(app, flow).apply_async().id for flow in flows]
            troubles = _drain(app, options.drain)
            if options.kills:
                killer.finish()
            troubles += _judge(flows, ids, _ends(app, ids), _diaries(folder), killer.killed)
            return troubles + _left(app, url)
    finally:
        for one in workers:
            one.terminate()
        for one in workers:
            one.wait(30.0)
        if server is not None:
            server.close()


def _start(folder: Path, url: str, number: int, flags: Sequence[str]) -> subprocess.Popen[bytes]:
    environ = processes.bare_environ() | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        load.FOLDER_VARIABLE: str(folder), load.BROKER_VARIABLE: url, load.SETTINGS_VARIABLE: json.dumps(SETTINGS),
    }  # fmt: skip
    with (folder / f"log-{number}").open("wb") as log:
        return subprocess.Popen(
            [
                sys.executable, "-m", "celeriac", "-A", "tests.workflows.load", "worker", "-l", "ERROR",
                "-n", f"{number}@workflows", *flags,
            ],
            env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def _drain(app: Celeriac, seconds: float) -> list[str]:
    """Wait until nothing waits or runs."""
    until = time.monotonic() + seconds
    while True:
        stats = app.broker.stats(load.QUEUE)
        if not (stats.ready or stats.delayed or stats.running):
            return []
        if time.monotonic() > until:
            return [f"the queue is not empty after {seconds:g} s: {stats}"]
        time.sleep(0.05)


def _diaries(folder: Path) -> list[Run]:
    runs: list[Run] = []
    for path in folder.glob("runs-*"):
        # The last line may be read while it is written.
        for line in path.read_text().rpartition("\n")[0].splitlines():
            what, number, task_id, pid = line.split()
            runs.append(Run(what, int(number), task_id, int(pid)))
    return runs


def _ends(app: Celeriac, ids: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """State and result of the last steps, of those that have one."""
    ends: dict[str, tuple[str, Any]] = {}
    for key, data in app.backend.get([message.key_of(one) for one in ids]).items():
        record = stored.decode(data, app.conf.accept_content)
        ends[message.id_of(key)] = record.state, record.result
    return ends


def _judge(
    flows: Sequence[plan.Workflow], ids: Sequence[str], ends: Mapping[str, tuple[str, Any]],
    runs: Sequence[Run], killed: set[int],
) -> list[str]:  # fmt: skip
    """What is wrong with the workflows."""
    of_kind: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for one in runs:
        of_kind[one.what, one.number].append(one)
    troubles: list[str] = []
    for flow, task_id in zip(flows, ids, strict=True):
        last, failed = of_kind["last", flow.number], of_kind["failed", flow.number]
        is_failing = flow.value is plan.FAILED
        state, result = ends.get(task_id, ("nothing", None))
        if state != (states.FAILURE if is_failing else states.SUCCESS):
            troubles.append(f"workflow {flow.number} ends with {state}: {result!r}: {flow.tree}")
        elif not is_failing and result != flow.value:
            troubles.append(f"workflow {flow.number} returns {result!r}, not {flow.value!r}: {flow.tree}")
        right, wrong = (failed, last) if is_failing else (last, failed)
        # A run whose process was killed may be followed by another of the same message.
        undisturbed = [one for one in right if one.pid not in killed]
        if wrong or not right or len(undisturbed) > 1 or len({one.task_id for one in right}) > 1:
            troubles.append(
                f"workflow {flow.number}: {len(last)} last steps, {len(failed)} error callbacks: {right}"
            )
        ran = {number for number in flow.runs if of_kind["leaf", number]}
        if ran != flow.runs:
            troubles.append(f"workflow {flow.number}: tasks {sorted(flow.runs - ran)} never ran: {flow.tree}")
    expected = {number for flow in flows for number in flow.runs}
    more = {one.number for one in runs if one.what == "leaf"} - expected
    return troubles + ([f"tasks ran behind a failure: {sorted(more)}"] if more else [])


def _left(app: Celeriac, url: str) -> list[str]:
    """What is left of joins, and dead letters."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            joins = {row[0] for row in file.execute("SELECT key FROM joins UNION SELECT key FROM arrivals")}
    elif url.startswith("postgresql"):
        with psycopg.connect(url) as connection:
            found = connection.execute(
                "SELECT key FROM celeriac.joins UNION SELECT key FROM celeriac.arrivals"
            )
            joins = {row[0] for row in found}
    else:
        with RedisClient(url) as client:
            joins = {
                key for key in client.call("KEYS", "*") if b"j:" in key and client.call("TYPE", key) == "hash"
            }
    troubles = [f"{len(joins)} joins are left"] if joins else []
    if letters := app.broker.dead(load.QUEUE, limit=1000):
        troubles.append(f"dead letters: {Counter(one.reason for one in letters)}")
    return troubles


def main(arguments: list[str]) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.workflows", description=__doc__)
    parser.add_argument("--workflows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, which is told")
    parser.add_argument("--broker", choices=("redis", "sqlite", "postgres"), default="redis")
    parser.add_argument(
        "--drain", type=float, default=120.0, help="seconds for what is left when all is sent"
    )
    parser.add_argument("--no-kills", action="store_true", help="let every process live")
    parser.add_argument("--folder", type=Path, default=None, help="keep diaries and logs here")
    given = parser.parse_args(arguments)
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    options = Options(given.workflows, seed, given.broker, not given.no_kills, given.drain)
    print(f"{options.workflows} workflows with seed {seed} on {options.broker}", flush=True)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workflows-")))
        folder.mkdir(parents=True, exist_ok=True)
        troubles = run(options, folder)
        tasks = sum(len(flow.runs) for flow in plan.draw(seed, options.workflows))
    for trouble in troubles[:30]:
        print(f"  {trouble}")
    print(f"{tasks} tasks, {time.monotonic() - started:.0f} s: ", end="")
    print(f"{len(troubles)} troubles" if troubles else "every workflow ended as it should, and left nothing")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
