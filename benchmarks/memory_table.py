"""What the worker of one queue weighs, where five modules import numpy, pandas, boto3, requests and lxml.

    python benchmarks/memory_table.py        run it with the environment that `make weigh` makes

Celery as its tutorial starts it (prefork, every module); Celery as articles on saving memory tune it (gevent, only the
queue's own module, no gossip, no mingle, no heartbeats, processes that are replaced); and Celeriac with every module
included and no flag but the pool: it imports a module when its first task comes. Each is weighed twice, PSS of all
its processes: when it is up, and when it has run some tasks of its queue and what it does about that is over. Exits
with 1 where Celeriac weighs more than is promised.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from celeriac.pools import POOLS
from heavy import MODULES, task_name
from rig import HERE, Worker, private_redis
from tally import Tally

QUEUE, TASKS = "scrape", 20
SLOTS = ["-P", "gevent" if "gevent" in POOLS else "threads", "-c", "100"]
#: Celeriac's share of the tuned and of the untuned worker, at most.
OF_TUNED, OF_UNTUNED = 0.75, 0.3
#: Seconds until a worker is as it will be: children that imported a module for themselves are replaced meanwhile, and a
#: template that has one child ends after 30, or 30 for each second that its import took on a busy machine.
REST = 40.0
#: Seconds until it is up, Celery with all modules too.
START = 10.0
SEND = "import sys; from heavy.app import app; [app.send_task(sys.argv[1], (n,)) for n in range(int(sys.argv[2]))]"


@dataclass(frozen=True)
class Case:
    """One way to start the worker."""

    title: str
    system: str
    flags: list[str]
    modules: list[str] = field(default_factory=lambda: list(MODULES.values()))


def cases() -> dict[str, Case]:
    """Those that this version can start."""
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    found = {
        "untuned": Case("Celery, prefork, all modules", "celery", []),
        "tuned": Case("Celery, gevent -c 100, one module, tuned", "celery",
                      ["-P", "gevent", "-c", "100", *alone, "--max-tasks-per-child", "1000"], [MODULES[QUEUE]]),
        "prefork": Case("Celeriac, prefork, all modules", "celeriac", []),
        "ours": Case(f"Celeriac, {' '.join(SLOTS[1:])}, all modules", "celeriac", SLOTS),
    }  # fmt: skip
    return found


def weigh(case: Case, port: int, folder: Path, rest: float) -> tuple[float, float]:
    """Megabytes of all processes of such a worker: when it is up, and after some tasks."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "BENCH_REDIS": f"redis://127.0.0.1:{port}/0",
        "BENCH_TALLY": str(folder / "tally"),
        "HEAVY_SYSTEM": case.system,
        "HEAVY_MODULES": ",".join(case.modules),
    }
    tally = Tally(environment["BENCH_TALLY"])
    tally.clear()
    command = [sys.executable, "-m", case.system, "-A", "heavy.app", "worker", "-Q", QUEUE, *case.flags]
    with Worker([command], environment, folder / "log") as worker:
        time.sleep(START)
        idle = worker.memory()
        sender = [sys.executable, "-c", SEND, task_name(QUEUE), str(TASKS)]
        subprocess.run(sender, env=environment, check=True)
        worker.wait_for(lambda: tally.total() >= TASKS, 60, "its tasks")
        time.sleep(rest)
        return idle, worker.memory()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rest", type=float, default=REST, help="seconds between the tasks and the weighing")
    args = parser.parse_args()
    weights: dict[str, list[tuple[float, float]]] = {}
    with private_redis() as port, tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for name, case in cases().items():
                weights.setdefault(name, []).append(weigh(case, port, Path(folder), args.rest))
    met = True
    for place, when in enumerate(("when it is up", f"after {TASKS} tasks")):
        medians = {name: statistics.median(pair[place] for pair in found) for name, found in weights.items()}
        print(f"{f'worker of one queue of five, {when}':48}{'MB':>7}{'of untuned':>12}{'of tuned':>10}")
        for name, case in cases().items():
            own = medians[name]
            print(f"{case.title:48}{own:7.1f}{own / medians['untuned']:12.2f}{own / medians['tuned']:10.2f}")
        for other, most in (("tuned", OF_TUNED), ("untuned", OF_UNTUNED)):
            share = medians["ours"] / medians[other]
            met = met and share <= most
            verdict = "PASS" if share <= most else "FAIL"
            print(f"{verdict}: {share:.2f} of Celery's {other} worker, at most {most} wanted")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
