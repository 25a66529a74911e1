"""How long short tasks wait for their start where long ones come among them, taken one at a time and by `auto`.

    python benchmarks/waiting.py [--seconds 60] [--long 2.0] [--burst 20] [--broker redis]

Nineteen of twenty tasks take 2 ms and one takes `--long` seconds; two children; a burst of `--burst` tasks every
`--long` seconds, so that at most times one child is idle or busy with short tasks. In turn:
`worker_prefetch_multiplier=1`; `auto`, where long tasks have a name of their own; `auto`, where one name has both. The
last column is the 99th percentile beside that of the first line. The exit code is 1 when it is above 2.
"""

from __future__ import annotations

import argparse
import os
import statistics
import struct
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from celeriac import Celeriac
from rig import HERE, Worker, private_redis, until

URL, STARTS = "WAITING_BROKER", "WAITING_STARTS"
SHORT, PART_LONG, WANTED = 0.002, 20, 2.0
_START = struct.Struct("=dd")


def start(sent: float, seconds: float) -> None:
    """Writes down when it was sent and when it began, and takes its time."""
    began = time.monotonic()
    with open(os.environ[STARTS], "ab", buffering=0) as starts:
        starts.write(_START.pack(began - sent, seconds))
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def make_app(url: str) -> Celeriac:
    app = Celeriac("waiting", broker=url)
    for name in ("short", "long", "either"):
        app.task(name=name)(start)
    return app


def measure(
    url: str, folder: Path, multiplier: str, names: tuple[str, str], args: argparse.Namespace
) -> list[float]:
    """Seconds that each short task has waited, in order."""
    starts = folder / "starts"
    starts.write_bytes(b"")
    environment = {**os.environ, "PYTHONPATH": str(HERE), URL: url, STARTS: str(starts)}
    command = [sys.executable, "-m", "celeriac", "-A", "waiting", "worker", "-l", "INFO", "-n", "w@waiting", "-c", "2",
               "--prefetch-multiplier", multiplier]  # fmt: skip
    log = folder / "log"
    with Worker([command], environment, log) as worker, make_app(url) as app:
        worker.wait_for(lambda: "w@waiting ready" in log.read_text(), 30, "its start")
        sent = 0
        began = time.monotonic()
        while (at := time.monotonic() - began) < args.seconds:
            for _ in range(args.burst):
                sent += 1
                is_long = sent % PART_LONG == PART_LONG // 2
                call = (time.monotonic(), args.long if is_long else SHORT)
                app.send_task(names[is_long], call)
            time.sleep(max(0.0, args.long - (time.monotonic() - began - at)))
        until(
            lambda: starts.stat().st_size >= sent * _START.size, 60 + 4 * args.long, "not all tasks have run"
        )
    waits = list(_START.iter_unpack(starts.read_bytes()))
    return sorted(wait for wait, seconds in waits if seconds == SHORT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the three")
    parser.add_argument("--long", type=float, default=2.0)
    parser.add_argument("--burst", type=int, default=20)
    parser.add_argument("--broker", choices=("redis", "sqlite"), default="redis")
    args = parser.parse_args()
    worst = base = 0.0
    print(f"{'':24}{'tasks':>8}{'p50 ms':>10}{'p99 ms':>10}{'most ms':>10}{'p99 ratio':>11}")
    for title, multiplier, names in (
        ("one at a time", "1", ("short", "long")),
        ("auto, two names", "auto", ("short", "long")),
        ("auto, one name", "auto", ("either", "either")),
    ):
        # A server for each: what the worker before was killed with would come back after its lease.
        with private_redis() if args.broker == "redis" else nullcontext(0) as port:
            with tempfile.TemporaryDirectory() as folder:
                url = f"redis://127.0.0.1:{port}/0" if port else f"sqlite:///{folder}/queue.sqlite"
                waits = [wait * 1e3 for wait in measure(url, Path(folder), multiplier, names, args)]
        high = waits[int(len(waits) * 0.99)]
        base = base or high
        worst = max(worst, high / base)
        middle, most = statistics.median(waits), waits[-1]
        print(f"{title:24}{len(waits):8}{middle:10.1f}{high:10.1f}{most:10.1f}{high / base:11.2f}")
    sys.exit(0 if worst <= WANTED else 1)


if URL in os.environ:
    app = make_app(os.environ[URL])

if __name__ == "__main__":
    main()
