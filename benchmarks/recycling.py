"""Tasks per second where every task gets a process of its own, of an application that takes one second to import.

    python benchmarks/recycling.py [--children N] [--tasks N] [--import-seconds S] [--broker URL]

`worker_max_tasks_per_child=1`, prefork. Without `--broker`: Redis on a private server, or SQLite where there is none.
Celeriac forks from a process that has imported the application once, so the import is paid once and not for each task.
Each task writes its process id down: the rate is that of tasks between the first and the last twentieth, and
the command fails where two tasks shared a process or one ran twice.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from celeriac.brokers import connect
from engine import private_redis

APPLICATION = """
import os, struct, time
from celeriac import Celeriac

time.sleep({seconds})
app = Celeriac("recycled", broker={url!r}, worker_max_tasks_per_child=1)
file = os.open({runs!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task
def work(number):
    os.write(file, struct.pack("=qqd", os.getpid(), number, time.monotonic()))
"""
RUN = struct.Struct("=qqd")
SEND = "import recycled; [recycled.work.delay(n) for n in range({count})]"


@contextmanager
def broker_url(given: str | None, folder: Path) -> Generator[str, None, None]:
    """Where messages are kept while this measures."""
    if given:
        yield given
    elif shutil.which("redis-server"):
        with private_redis() as port:
            yield f"redis://127.0.0.1:{port}/0"
    else:
        yield f"sqlite:///{folder}/queue.sqlite"


def wait_for(runs: Path, count: int, worker: subprocess.Popen[bytes]) -> None:
    """Wait until so many tasks have run."""
    deadline = time.monotonic() + 300
    while not runs.exists() or runs.stat().st_size < count * RUN.size:
        if worker.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"exit code {worker.poll()}, and not all tasks have run")
        time.sleep(0.02)


def cpu_seconds() -> float:
    """Of all processes that have ended and been waited for, with theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(url: str, folder: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Tasks per second, and the worker's seconds of CPU for each."""
    runs = folder / "runs"
    text = APPLICATION.format(seconds=args.import_seconds, url=url, runs=str(runs))
    (folder / "recycled.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-c", SEND.format(count=args.tasks)], env=environment, check=True)
    command = [
        sys.executable,
        "-m",
        "celeriac",
        "-A",
        "recycled",
        "worker",
        "-c",
        str(args.children),
        "-l",
        "ERROR",
        "-q",
    ]
    used = cpu_seconds()
    worker = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        wait_for(runs, args.tasks, worker)
    finally:
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(60)
        used = cpu_seconds() - used
    broker = connect(url)
    left = broker.stats("celery")
    broker.close()
    done = list(RUN.iter_unpack(runs.read_bytes()))
    if code or left.ready or left.running or left.dead:
        raise RuntimeError(f"exit code {code}; left at the broker: {left}")
    if len({number for _, number, _ in done}) != len(done) or len({pid for pid, _, _ in done}) != len(done):
        raise RuntimeError("a task ran twice, or two tasks shared a process")
    times = sorted(at for _, _, at in done)
    first, last = len(times) // 20, len(times) - 1 - len(times) // 20
    return (last - first) / (times[last] - times[first]), used / len(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--children", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--import-seconds", type=float, default=1.0)
    parser.add_argument("--broker", metavar="URL", help="an empty database; it is written to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, broker_url(args.broker, Path(name)) as url:
        rate, cpu = measure(url, Path(name), args)
    kind = url.partition(":")[0]
    print(
        f"{rate:.0f} tasks a second, each in a process of its own, {cpu * 1000:.1f} ms of CPU for each: "
        f"{args.tasks} tasks, {args.children} children, {args.import_seconds:g} s of import, {kind}, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
