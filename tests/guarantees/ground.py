"""A site of tests/worker whose workers know the tasks of `deeds` too, and what the tests here ask of processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from harness import WAIT, Site, Worker, python_path

from celeriac.async_result import AsyncResult

#: Seconds that a bound may be passed by on a machine under load, before a test fails.
SLACK = 4.0


class Ground(Site):
    """See `Site`."""

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


def own_memory(pids: list[int]) -> int:
    """Bytes that these processes have written for themselves.

    What they have only read counts as theirs alone as soon as nobody else has it mapped, and so depends on others.
    """
    text = "".join(Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty:")) * 1024


def elapsed(since: float) -> float:
    """Seconds since a time of the clock that never jumps."""
    return time.monotonic() - since
