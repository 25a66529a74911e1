"""A site of tests/worker whose workers know the tasks of `deeds` too, and what the tests here ask of processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
from harness import WAIT, Site, Worker, python_path

from celeriac.async_result import AsyncResult
from celeriac.brokers.contract import QueueStats
from tests.private_rabbitmq import PrivateRabbit
from tests.servers import PrivateRedis

#: A server that a test may do anything to.
Server = PrivateRedis | PrivateRabbit
#: Seconds that a bound may be passed by on a machine under load, before a test fails.
SLACK = 4.0


class Ground(Site):
    """See `Site`."""

    #: Between the calls of a settlement at which a process is killed: a prime, so that no rhythm of the code is always
    #: missed.
    step = 23
    #: So many delayed messages that are due in a second start in time.
    due_rate = 1000
    #: Whether `stats` tells of one moment.
    counts_at_once = True

    def worker(
        self, *flags: str, ready: bool = True, environ: dict[str, str] | None = None, **settings: Any
    ) -> Worker:
        more = {"PYTHONPATH": python_path(Path(__file__).parent), **(environ or {})}
        return super().worker(
            "-I", "deeds", "worker_imports=eager", *flags, ready=ready, environ=more, **settings
        )

    def do(self, deed: str, *args: Any, **options: Any) -> AsyncResult:
        """Send a task of `deeds`."""
        return self.app.send_task(f"deeds.{deed}", args, **options)

    def clear_streak(self, number: int) -> None:
        """Let a task end its process, once: deaths that no run is to blame for are not in a row then.

        A worker whose children die in a row starts the next one after growing pauses.
        """
        assert self.send("dies_once", "SIGKILL", f"died-{number}").get(timeout=WAIT) == "survived"

    def runs(self, result: AsyncResult) -> int:
        """How often its run has begun."""
        return len(self.notes(result, "start"))


class RabbitGround(Ground):
    """On RabbitMQ, with results in a file. What is delayed and held, the server tells where its broker cannot."""

    #: A settlement is some thousand calls, where Redis needs hundreds.
    step = 211
    #: Each goes through several queues, which costs the server much; tests share two processors with it:
    #: docs/guarantees.md#rabbitmq.
    due_rate = 200
    #: Nobody can look into several queues at once: what moves meanwhile is counted in each, or in none.
    counts_at_once = False

    def __init__(self, folder: Path, server: PrivateRabbit, url: str) -> None:
        super().__init__(folder, url, result_backend=f"sqlite:///{folder}/results.sqlite")
        self._server = server
        self._host = url.rpartition("/")[2] or "/"

    def stats(self, queue: str = "celery") -> QueueStats:
        """What is delayed and held belongs to any queue. A message that is on its way is waiting or held."""
        told = super().stats(queue)
        work = self._server.work(self._host)
        return msgspec.structs.replace(
            told, ready=work.ready.get(queue, 0), delayed=work.delayed, running=work.held
        )

    def is_empty(self, queue: str = "celery") -> bool:
        """A look misses what moves twice meanwhile, as what a dead child held does: one look is not enough."""
        return super().is_empty(queue) and super().is_empty(queue)

    def is_held_up(self) -> bool:
        """Whether somebody keeps others from a register, or from dead letters."""
        return self._server.is_seized(self._host)


def own_memory(pids: list[int]) -> int:
    """Bytes that these processes have written for themselves.

    What they have only read counts as theirs alone as soon as nobody else has it mapped, and so depends on others.
    """
    text = "".join(Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty:")) * 1024


def elapsed(since: float) -> float:
    """Seconds since a time of the clock that never jumps."""
    return time.monotonic() - since
