"""The supervisor with real children and a SQLite broker: what a death, a limit and a stop do to messages."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from celeriac.brokers import connect

APP = """
import os, signal, time
from celeriac import Celeriac

app = Celeriac("proj", broker="sqlite:///{folder}/queue.sqlite")

def note(what):
    with open("{folder}/log", "a") as log:
        log.write(f"{{what}} {{os.getpid()}} {{time.monotonic()}}\\n")

@app.task
def quick():
    note("quick")

@app.task
def sleepy(seconds):
    note("sleepy")
    time.sleep(seconds)
    note("woke")

@app.task
def die():
    note("die")
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(time_limit=0.5)
def long():
    note("long")
    time.sleep(60)
"""
#: What is promised holds on a machine at rest; a loaded one is given more before a test fails.
LENIENT = 4.0
RUN = """
import json, sys
import msgspec
from celeriac import wire
from celeriac.supervisor import main
sys.exit(main.run(msgspec.convert(json.loads(sys.argv[1]), wire.WorkerOptions)))
"""


class Worker:
    """A worker in a folder, and what its tasks noted there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proj.py").write_text(APP.format(folder=folder))
        self.broker = connect(f"sqlite:///{folder}/queue.sqlite")
        self.process: subprocess.Popen | None = None

    def send(self, *calls: str) -> None:
        code = "import proj\n" + "\n".join(f"proj.{call}" for call in calls)
        subprocess.run([sys.executable, "-c", code], cwd=self.folder, check=True)

    def start(self, **options) -> None:
        shown = json.dumps({"type": "WorkerOptions", "app": "proj", "quiet": True, **options})
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, shown],
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def notes(self) -> list[tuple[str, int, float]]:
        with contextlib.suppress(FileNotFoundError):
            # The last line may be read while it is written, where it passes the end of a page.
            whole = (self.folder / "log").read_text().rpartition("\n")[0]
            return [(what, int(pid), float(at)) for what, pid, at in map(str.split, whole.splitlines())]
        return []

    def wait(self, condition, timeout: float = 30.0) -> None:
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until, (self.notes(), self.broker.stats("celery"))
            time.sleep(0.01)

    def close(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.broker.close()


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    worker.close()


def test_a_task_that_kills_its_child_runs_elsewhere_and_then_is_a_dead_letter(worker):
    worker.send("die.delay()", "quick.delay()")
    worker.start(concurrency=1)
    worker.wait(lambda: worker.broker.stats("celery").dead == 1)
    worker.wait(lambda: any(what == "quick" for what, _, _ in worker.notes()))
    deaths = [at for what, _, at in worker.notes() if what == "die"]
    assert len(deaths) == 3 and max(b - a for a, b in itertools.pairwise(deaths)) < 2.0 + LENIENT
    (letter,) = worker.broker.dead("celery")
    assert [casualty.cause for casualty in letter.casualties] == ["signal 9 (SIGKILL)"] * 3
    assert all(casualty.memory for casualty in letter.casualties)


def test_a_hard_limit_ends_one_run_and_its_neighbour_counts_no_crash(worker):
    worker.send("long.delay()", "quick.delay()")
    worker.start(concurrency=1)
    worker.wait(lambda: any(what == "quick" for what, _, _ in worker.notes()))

    def left() -> tuple[int, int]:
        stats = worker.broker.stats("celery")
        return stats.ready, stats.running

    # Before its end is settled, the long one may wait for somebody to do that.
    worker.wait(lambda: left() == (0, 0))
    assert [what for what, _, _ in worker.notes()].count("long") == 1
    assert worker.broker.stats("celery").dead == 0


def test_a_stop_gives_back_what_did_not_finish_and_counts_nothing(worker):
    worker.send("sleepy.delay(60)", "quick.delay()")
    worker.start(concurrency=1, settings={"worker_shutdown_timeout": 0.3})
    worker.wait(lambda: worker.notes())
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    stats = worker.broker.stats("celery")
    assert (stats.ready, stats.running, stats.dead) == (2, 0, 0)


def test_max_tasks_per_child_gives_each_task_its_own_process(worker):
    worker.send(*["quick.delay()"] * 20)
    worker.start(concurrency=2, settings={"worker_max_tasks_per_child": 1})
    worker.wait(lambda: len(worker.notes()) == 20)
    assert len({pid for _, pid, _ in worker.notes()}) == 20
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0
