"""`python -m tests.transactions --transactions 10000 --seed 7`: tasks that are sent within transactions of others.

Each transaction inserts an order and sends its task, over psycopg or a session of SQLAlchemy, and then commits, rolls
back, fails, hangs up or dies, while senders, workers' children and the database server are killed. In the end exactly
the tasks of those orders have run that are in the table. The exit code is 1 where that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests import processes
from tests.chaos.site import ROOT, wait_until
from tests.postgres import PrivatePostgres
from tests.transactions import load

SETTINGS: dict[str, Any] = {"worker_lease": 3.0, "task_max_deliveries": 100, "worker_shutdown_timeout": 5.0}
POOLS = (("-P", "prefork", "-c", "2"), ("-P", "threads", "-c", "4", "--processes", "2"))
SENDERS = 3
#: Transactions between two kills, on average: of a sender at any instant, of a child that runs tasks.
_SENDER_KILLS, _CHILD_KILLS = 100, 50


@dataclass(frozen=True)
class Options:
    """What is to be done. `crashes`: how often the server is killed; `drain`: seconds for what is left at the end."""

    transactions: int
    seed: int
    crashes: int = 0
    drain: float = 120.0


@dataclass
class Deeds:
    """What was done to those who take part. `children`: the processes of workers that were killed."""

    senders: int = 0
    crashes: int = 0
    children: set[int] = field(default_factory=set)


class Sender:
    """Places the orders of a range of numbers; after a death another process goes on behind the number it died at."""

    def __init__(self, folder: Path, environ: dict[str, str], seed: int, numbers: range) -> None:
        self._environ, self._seed, self._last = environ, seed, numbers[-1]
        self._path = folder / f"begun-{numbers[0]}"
        self._path.touch()
        self._next = numbers[0]
        self.process = self._start()

    @property
    def begun(self) -> int:
        """How many orders were begun, of this process and all before."""
        told = self._path.read_text().rpartition("\n")[0].rpartition("\n")[2]
        return int(told) if told else self._next - 1

    def is_done(self) -> bool:
        """Whether the last is placed. Starts another process where one has died."""
        if self.process.poll() is None:
            return False
        if self.process.returncode > 0:
            raise AssertionError(f"a sender ended with {self.process.returncode}; see its log")
        if self.process.returncode == 0:
            return True
        self._next = self.begun + 1
        if self._next > self._last:
            return True
        self.process = self._start()
        return False

    def kill(self) -> bool:
        """End it wherever it is. Returns whether it ran."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
            return self.process.wait() == -signal.SIGKILL
        return False

    def _start(self) -> subprocess.Popen[bytes]:
        with self._path.open("ab") as told, (self._path.parent / f"log-{self._path.name}").open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable, "-m", "tests.transactions.load",
                    str(self._seed), str(self._next), str(self._last),
                ],
                env=self._environ, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=told, stderr=log,
            )  # fmt: skip


def run(options: Options, folder: Path, server: PrivatePostgres) -> tuple[str, list[str]]:
    """Everything, from the tables to the judgement: what happened, and what is wrong, in words."""
    with psycopg.connect(server.url) as connection:
        for statement in load.TABLES:
            connection.execute(statement)
    environ = processes.bare_environ() | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        load.URL_VARIABLE: server.url, load.SETTINGS_VARIABLE: json.dumps(SETTINGS),
    }  # fmt: skip
    with load.make_app(server.url) as app, _workers(folder, environ) as workers:
        wait_until(lambda: all(processes.children(one.pid) for one in workers))
        share = -(-options.transactions // SENDERS)
        ranges = [
            range(first, min(first + share, options.transactions))
            for first in range(0, options.transactions, share)
        ]
        senders = [Sender(folder, environ, options.seed, numbers) for numbers in ranges]
        try:
            deeds = _trouble(options, senders, ranges, [one.pid for one in workers], server)
        finally:
            for sender in senders:
                sender.kill()
        wait_until(lambda: _is_empty(app), lambda: str(app.broker.stats(load.QUEUE)), options.drain)
        dead = app.broker.dead(load.QUEUE, limit=1000)
    with psycopg.connect(server.url) as connection:
        orders = dict(connection.execute("SELECT number, how FROM orders").fetchall())
        runs = connection.execute("SELECT number, task_id, pid, retries FROM runs").fetchall()
    troubles = _judge(orders, runs, deeds.children)
    troubles += [f"dead letters: {Counter(one.reason for one in dead)}"] if dead else []
    told = (
        f"{options.transactions} transactions, {len(orders)} committed; {len({run[0] for run in runs})} tasks ran, "
        f"{len(runs)} times; killed: {deeds.senders} senders, {len(deeds.children)} children, "
        f"the server {deeds.crashes} times"
    )
    return told, troubles


@contextlib.contextmanager
def _workers(folder: Path, environ: dict[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for number, flags in enumerate(POOLS):
            with (folder / f"log-worker-{number}").open("wb") as log:
                workers.append(
                    subprocess.Popen(
                        [
                            sys.executable, "-m", "celeriac", "-A", "tests.transactions.load", "worker",
                            "-l", "WARNING", "-n", f"{number}@transactions", *flags,
                        ],
                        env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    )
                )  # fmt: skip
        yield workers
    finally:
        for one in workers:
            one.terminate()
        for one in workers:
            one.wait(30.0)


def _trouble(
    options: Options, senders: Sequence[Sender], ranges: Sequence[range], workers: Sequence[int],
    server: PrivatePostgres,
) -> Deeds:  # fmt: skip
    """Kill until all is sent."""
    draw, deeds = random.Random(f"deeds {options.seed}"), Deeds()
    crash_at = [options.transactions * (n + 1) // (options.crashes + 1) for n in range(options.crashes)]
    kill_sender = kill_child = 0.0
    while not all([sender.is_done() for sender in senders]):
        time.sleep(draw.uniform(0.0, 0.04))
        begun = sum(one.begun - numbers[0] for one, numbers in zip(senders, ranges, strict=True))
        if begun > kill_sender:
            kill_sender = begun + draw.expovariate(1 / _SENDER_KILLS)
            deeds.senders += draw.choice(senders).kill()
        if begun > kill_child:
            kill_child = begun + draw.expovariate(1 / _CHILD_KILLS)
            children = [child for pid in workers for child in processes.children(pid)]
            if children:
                victim = draw.choice(children)
                deeds.children.add(victim)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        if crash_at and begun >= crash_at[0]:
            crash_at.pop(0)
            server.kill()
            deeds.crashes += 1
            time.sleep(draw.uniform(0.0, 2.0))
            server.start()
    return deeds


def _is_empty(app: Any) -> bool:
    stats = app.broker.stats(load.QUEUE)
    return not (stats.ready or stats.delayed or stats.running)


def _judge(orders: dict[int, str], runs: Sequence[tuple[int, str, int, int]], killed: set[int]) -> list[str]:
    """What is wrong."""
    of: dict[int, list[tuple[int, str, int, int]]] = defaultdict(list)
    for one in runs:
        of[one[0]].append(one)
    troubles = [f"order {number} ({orders[number]}) never ran" for number in orders.keys() - of.keys()]
    troubles += [f"{of[number]} ran, and there is no such order" for number in of.keys() - orders.keys()]
    wrong = {how for how in orders.values()} - {"commit"}
    if wrong:
        troubles.append(f"orders are there whose transactions ended otherwise: {wrong}")
    for number, found in of.items():
        # After a death the same message runs again; a retry, after a loss of the connection.
        unexplained = [one for one in found if one[2] not in killed and not one[3]]
        if len(unexplained) > 1 or len({one[1] for one in found}) > 1:
            troubles.append(f"order {number} ran more than once: {found}")
    return troubles


def main(arguments: list[str]) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.transactions", description=__doc__)
    parser.add_argument("--transactions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, which is told")
    parser.add_argument("--crashes", type=int, default=10, help="how often the server is killed")
    parser.add_argument("--drain", type=float, default=120.0, help="seconds for what is left at the end")
    parser.add_argument("--folder", type=Path, default=None, help="keep logs here")
    given = parser.parse_args(arguments)
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"{given.transactions} transactions with seed {seed}", flush=True)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="transactions-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        server = PrivatePostgres()
        stack.callback(server.close)
        told, troubles = run(Options(given.transactions, seed, given.crashes, given.drain), folder, server)
    for trouble in troubles[:30]:
        print(f"  {trouble}")
    print(f"{told}; {time.monotonic() - started:.0f} s: ", end="")
    print(f"{len(troubles)} troubles" if troubles else "exactly the committed ones ran")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
