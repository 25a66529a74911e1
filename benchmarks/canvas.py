"""What workflows cost: the bytes of nested chords, a chain of 1,000, and a chord of 100,000 from a generator.

    python benchmarks/canvas.py [--members 100000] [--steps 1000]

The bytes are those of every message of a workflow that runs to its end in memory, less those of the tasks' own
arguments: 250 for each task are allowed, at any depth. The chain and the chord run on a worker of two children with a
private Redis; 100,000 members are to be sent within 10 s, by a sender that grows by less than 50 MB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celeriac import Celeriac, chain, chord, message
from celeriac.contrib.testing.inline import inline_worker
from rig import HERE, Worker, private_redis

URL = "CANVAS_BROKER"
PATIENCE = 600.0


def make_app(url: str) -> Celeriac:
    app = Celeriac("canvas", broker=url)

    @app.task(name="add", ignore_result=False)
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="give")
    def give(x: int) -> int:
        return x

    @app.task(name="total", ignore_result=False)
    def total(values: list[int]) -> int:
        return sum(values)

    return app


def leaves(app: Celeriac, depth: int, width: int) -> Any:
    """Chords within chords, so many levels deep; the deepest members are plain tasks."""
    if depth == 0:
        return app.tasks["add"].s(1, 2)
    return chord([leaves(app, depth - 1, width) for _ in range(width)], app.tasks["total"].s(), app=app)


class Weighed:
    """While it is entered, every message that is written is counted, and its bytes without arguments."""

    def __init__(self) -> None:
        self.messages = self.bytes = 0

    def __enter__(self) -> Weighed:
        self._encode = message.encode
        message.encode = self._weigh  # type: ignore[assignment]
        return self

    def __exit__(self, *error: object) -> None:
        message.encode = self._encode  # type: ignore[assignment]

    def _weigh(self, one: message.Message, *args: Any, **kwargs: Any) -> bytes:
        data = self._encode(one, *args, **kwargs)
        bare = message.Message(one.key, one.task)
        arguments = len(self._encode(message.Message(one.key, one.task, one.args, one.kwargs))) - len(
            self._encode(bare)
        )
        self.messages += 1
        self.bytes += len(data) - arguments
        return data


def bytes_of_nested_chords() -> None:
    """Up to five levels of chords of three members."""
    for depth in range(1, 6):
        with make_app(f"memory://canvas-{depth}") as app, Weighed() as weighed, inline_worker(app) as worker:
            result = leaves(app, depth, 3).apply_async()
            runs = worker.drain()
            assert result.get(timeout=1) == 3 ** (depth + 1)
        print(
            f"{f'{3**depth} leaves of nested chords':34}{weighed.bytes / runs:8.0f} bytes a task ({runs} tasks)"
        )


def memory() -> float:
    """Megabytes that this process has taken, at most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the system does not tell")


def members(app: Celeriac, count: int) -> Iterator[Any]:
    give = app.tasks["give"]
    return (give.s(number) for number in range(count))


def at_length(app: Celeriac, steps: int, count: int) -> None:
    """A long chain and a wide chord."""
    add = app.tasks["add"]
    began = time.monotonic()
    result = chain(add.s(0, 0), *(add.s(1) for _ in range(steps - 1))).apply_async()
    sent = time.monotonic() - began
    assert result.get(timeout=PATIENCE) == steps - 1
    print(f"{f'a chain of {steps:,}':34}{sent:8.2f} s to send, {time.monotonic() - began:.2f} s to its end")

    before, began = memory(), time.monotonic()
    result = chord(members(app, count), app.tasks["total"].s()).apply_async()
    sent, grown = time.monotonic() - began, memory() - before
    assert result.get(timeout=PATIENCE) == sum(range(count))
    took = time.monotonic() - began
    print(
        f"{f'a chord of {count:,}':34}{sent:8.2f} s to send, {grown:.1f} MB more in its sender, {took:.2f} s to its end"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=1_000)
    args = parser.parse_args()
    bytes_of_nested_chords()
    with private_redis() as port, tempfile.TemporaryDirectory() as folder:
        url, log = f"redis://127.0.0.1:{port}/0", Path(folder) / "log"
        environment = {**os.environ, "PYTHONPATH": str(HERE), URL: url}
        command = [
            sys.executable,
            "-m",
            "celeriac",
            "-A",
            "canvas",
            "worker",
            "-l",
            "INFO",
            "-n",
            "w@canvas",
            "-c",
            "2",
        ]
        with Worker([command], environment, log) as worker, make_app(url) as app:
            worker.wait_for(lambda: "w@canvas ready" in log.read_text(), 30, "its start")
            at_length(app, args.steps, args.members)


if URL in os.environ:
    app = make_app(os.environ[URL])

if __name__ == "__main__":
    main()
