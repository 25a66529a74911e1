"""The engine against a bare loop of Redis commands, and against Celery, in one run on one private Redis.

    python benchmarks/engine.py [--celery PYTHON]

Rows: bytes of Redis for a waiting task; sends per second, one by one and in bulk; tasks settled per second with one
and with two children (late acknowledgement, a task that does nothing but count in shared memory); bytes for a stored
small result; broker commands for a task. `--celery` names a Python that has `celery[redis]`; `make bench` makes one.
The machine's absolute figures mean little: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis

from tally import Tally

HERE = Path(__file__).parent


class Redis:
    """A bare connection, for the limits and for looking at the server."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 5)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def call(self, *command: Any) -> Any:
        self._sock.sendall(hiredis.pack_command(command))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._sock.recv(65536))
        return reply

    def info(self, name: str) -> int:
        text = self.call("INFO", "everything").decode()
        return int(next(line.partition(":")[2] for line in text.splitlines() if line.startswith(name + ":")))


@contextmanager
def private_redis() -> Iterator[int]:
    """A server of our own on a free port, ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                deadline = time.monotonic() + 10
                while True:
                    try:
                        Redis(port).call("PING")
                        break
                    except OSError:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.02)
                yield port
            finally:
                server.terminate()


class Bench:
    """One system on one server."""

    def __init__(self, system: str, python: str, port: int, folder: Path) -> None:
        self.system = system
        self.python = python
        self.redis = Redis(port)
        self.tally_file = folder / f"tally-{system}"
        self.environment = {
            **os.environ,
            "BENCH_SYSTEM": system,
            "BENCH_REDIS": f"redis://127.0.0.1:{port}/0",
            "BENCH_TALLY": str(self.tally_file),
            "PYTHONPATH": str(HERE),
        }
        Tally(str(self.tally_file))

    def send(self, how: str, count: int) -> float:
        """Messages per second."""
        command = [self.python, str(HERE / "engine_send.py"), how, str(count)]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True)
        return float(done.stdout)

    def bytes_waiting(self, count: int) -> float:
        self.redis.call("FLUSHALL")
        self.send("one", 10)
        before = self.redis.info("used_memory")
        self.send("one", count)
        return (self.redis.info("used_memory") - before) / (count + 1)

    def settled(self, children: int, count: int) -> tuple[float, float]:
        """Tasks per second while a backlog is worked off, and broker commands for each."""
        self.redis.call("FLUSHALL")
        self.send("bulk" if self.system == "celeriac" else "one", count)
        tally = Tally(str(self.tally_file))
        first = tally.total()
        command = [self.python, "-m", self.system, "-A", "engine_tasks", "worker", "-c", str(children),
                   "-P", "prefork", "-l", "ERROR"]  # fmt: skip
        if self.system == "celery":
            command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = subprocess.Popen(
            command, env=self.environment, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            # The first twentieth is the start; the rate is that of the rest.
            self._wait(tally, first + count // 20, worker)
            begun, started = tally.total(), time.perf_counter()
            commands = self.redis.info("total_commands_processed")
            self._wait(tally, first + count, worker)
            seconds = time.perf_counter() - started
            done = tally.total() - begun
            used = self.redis.info("total_commands_processed") - commands
            return done / seconds, used / done
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)

    def _wait(self, tally: Tally, total: int, worker: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 180
        while tally.total() < total:
            if worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.system}: {tally.total()} of {total} tasks, exit {worker.poll()}")
            time.sleep(0.005)


def limits(redis: Redis, count: int) -> dict[str, float]:
    """What a bare loop of Redis commands reaches with a packed call of 91 bytes."""
    data = os.urandom(91)
    redis.call("FLUSHALL")
    started = time.perf_counter()
    for _ in range(count):
        redis.call("RPUSH", "bare", data)
    one = count / (time.perf_counter() - started)
    redis.call("FLUSHALL")
    before = redis.info("used_memory")
    for _ in range(100):
        redis.call("RPUSH", "bare", *[os.urandom(91) for _ in range(1000)])
    return {"delay/s": one, "bytes waiting": (redis.info("used_memory") - before) / 100_000}


def redis_py_rpush(port: int, count: int) -> float:
    """The same loop by redis-py, the bare rate that sends are measured by; 0.0 where it is not installed."""
    code = (
        "import redis,os,time\n"
        f"r=redis.Redis(port={port});d=os.urandom(91);n={count}\n"
        "for _ in range(500): r.rpush('bare',d)\n"
        "t=time.perf_counter()\n"
        "for _ in range(n): r.rpush('bare',d)\n"
        "print(n/(time.perf_counter()-t))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else 0.0


def measure(bench: Bench, scale: int) -> dict[str, float]:
    row = {"bytes waiting": bench.bytes_waiting(20_000)}
    bench.redis.call("FLUSHALL")
    row["delay/s"] = bench.send("one", 20_000 if bench.system == "celeriac" else 5_000)
    row["bulk/s"] = bench.send("bulk", 100_000 if bench.system == "celeriac" else 5_000)
    for children in (1, 2):
        rate, commands = bench.settled(children, scale)
        row[f"settled/s, {children} child" + ("ren" if children > 1 else "")] = rate
        row["commands a task"] = commands
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--celery", metavar="PYTHON", help="a Python that has celery[redis]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    with private_redis() as port, tempfile.TemporaryDirectory() as folder:
        rows["bare loop"] = limits(Redis(port), 20_000)
        if rate := redis_py_rpush(port, 10_000):
            rows["redis-py"] = {"delay/s": rate}
        rows["celeriac"] = measure(Bench("celeriac", sys.executable, port, Path(folder)), 300_000)
        if args.celery:
            rows["celery"] = measure(Bench("celery", args.celery, port, Path(folder)), 5_000)
    if args.json:
        print(json.dumps(rows))
        return
    names = list(rows["celeriac"])
    print(f"{'':22}" + "".join(f"{system:>14}" for system in rows))
    for name in names:
        print(
            f"{name:22}"
            + "".join(f"{row[name]:14,.2f}" if name in row else f"{'-':>14}" for row in rows.values())
        )
    if "celery" in rows:
        print("\nceleriac / celery: " + ", ".join(
            f"{name} {rows['celeriac'][name] / rows['celery'][name]:.3g}" for name in names))  # fmt: skip


if __name__ == "__main__":
    main()
