"""From `delay()` to the task's start on an idle worker, and what an idle worker costs the processor, on each broker.

    python benchmarks/latency.py [--calls 200] [--seconds 10] [--pool prefork]

Two children, or two slots in one. A call is made when the one before has started, after a pause of 20 to 120 ms, so
that the worker is idle each time. Then nothing is sent for `--seconds`, and the processor time of all its processes is
taken, in per cent of one core; on SQLite less than 1 is wanted. Last come health probes: what one of them costs the
supervisor in processor time; 2 ms are allowed. Redis is a private server.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import struct
import sys
import tempfile
import time
import urllib.request
from contextlib import nullcontext
from pathlib import Path

from celeriac import Celeriac
from rig import HERE, Worker, free_port, private_redis

URL, STARTS = "LATENCY_BROKER", "LATENCY_STARTS"
_START = struct.Struct("=d")
PROBES = 500


def note(sent: float) -> None:
    """Writes down how long after it was sent it began."""
    waited = time.monotonic() - sent
    with open(os.environ[STARTS], "ab", buffering=0) as starts:
        starts.write(_START.pack(waited))


def make_app(url: str) -> Celeriac:
    app = Celeriac("latency", broker=url)
    app.task(name="note")(note)
    return app


def cpu(pids: list[int]) -> float:
    """Seconds of processor time that these processes have taken."""
    ticks = 0
    for one in pids:
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def probe(port: int) -> None:
    """Ask whether the worker is live."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/live", timeout=10) as answer:
        answer.read()


def measure(url: str, folder: Path, args: argparse.Namespace) -> tuple[list[float], float, float]:
    """Seconds from send to start, in order; the share of a core that the idle worker takes; seconds for a probe."""
    starts, log = folder / "starts", folder / "log"
    starts.write_bytes(b"")
    environment = {**os.environ, "PYTHONPATH": str(HERE), URL: url, STARTS: str(starts)}
    health = free_port()
    command = [
        sys.executable, "-m", "celeriac", "-A", "latency", "worker", "-l", "INFO", "-n", "w@latency",
        "-P", args.pool, "-c", "2", "--health", f"127.0.0.1:{health}",
    ]  # fmt: skip
    with Worker([command], environment, log) as worker, make_app(url) as app:
        worker.wait_for(lambda: "w@latency ready" in log.read_text(), 30, "its start")
        draw = random.Random(1)
        for done in range(args.calls):
            time.sleep(draw.uniform(0.02, 0.12))
            app.send_task("note", (time.monotonic(),))
            size = (done + 1) * _START.size
            worker.wait_for(lambda size=size: starts.stat().st_size >= size, 30, "a task")  # type: ignore[misc]
        time.sleep(1.0)
        before, began = cpu(worker.pids()), time.monotonic()
        time.sleep(args.seconds)
        share = (cpu(worker.pids()) - before) / (time.monotonic() - began)
        before = cpu(worker.pids())
        for _ in range(PROBES):
            probe(health)
        cost = (cpu(worker.pids()) - before) / PROBES
    return sorted(one for (one,) in _START.iter_unpack(starts.read_bytes())), share, cost


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="of idleness")
    parser.add_argument("--pool", default="prefork")
    args = parser.parse_args()
    print(f"{'':10}{'p50 ms':>10}{'p99 ms':>10}{'most ms':>10}{'idle, % of a core':>20}{'a probe, ms':>14}")
    for broker in ("redis", "sqlite"):
        with private_redis() if broker == "redis" else nullcontext(0) as port:
            with tempfile.TemporaryDirectory() as folder:
                url = f"redis://127.0.0.1:{port}/0" if port else f"sqlite:///{folder}/queue.sqlite"
                waits, share, cost = measure(url, Path(folder), args)
        waits = [one * 1e3 for one in waits]
        high = waits[int(len(waits) * 0.99)]
        took = f"{statistics.median(waits):10.2f}{high:10.2f}{waits[-1]:10.2f}"
        print(f"{broker:10}{took}{share * 100:20.2f}{cost * 1e3:14.2f}")


if URL in os.environ:
    app = make_app(os.environ[URL])

if __name__ == "__main__":
    main()
