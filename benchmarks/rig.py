"""What benchmarks stand on: a Redis of their own, workers as real processes, and a look at both."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from memory import pss_of_tree, tree
from plain_redis import Redis

HERE = Path(__file__).resolve().parent


@contextmanager
def private_redis() -> Iterator[int]:
    """The port of a server of our own, which keeps nothing and ends with the block.

    Raises:
        FileNotFoundError: there is no redis-server.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise FileNotFoundError(
            "redis-server is not installed (Debian, Ubuntu: apt-get install redis-server)"
        )
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--dir", folder]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                until(lambda: _answers(port), 10, "the private redis-server did not start")
                yield port
            finally:
                server.terminate()


def free_port() -> int:
    """One of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        redis = Redis(port)
        with contextlib.closing(redis):
            return bool(redis.call("PING"))
    return False


def until(is_so: Callable[[], object], seconds: float, complaint: str, *, pause: float = 0.01) -> None:
    """Wait for it. Raises: RuntimeError, with the complaint."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(complaint)
        time.sleep(pause)


class Worker:
    """A running worker of some system: one command, or several where the system knows no children."""

    def __init__(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str], log: Path) -> None:
        """What it prints goes to the file `log`."""
        self._log = log
        self.started = time.monotonic()
        with log.open("wb") as output:
            self._processes = [
                subprocess.Popen(command, env=dict(environment), cwd=HERE, stdin=subprocess.DEVNULL,
                                 stdout=output, stderr=output, start_new_session=True)
                for command in commands
            ]  # fmt: skip

    def wait_for(
        self, is_so: Callable[[], object], seconds: float, what: str, *, pause: float = 0.005
    ) -> None:
        """Wait while the worker lives. Raises: RuntimeError with the end of its log."""
        deadline = time.monotonic() + seconds
        while not is_so():
            dead = any(process.poll() is not None for process in self._processes)
            if dead or time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-800:]
                raise RuntimeError(f"{'it died' if dead else 'too slow'}, waiting for {what}: {tail}")
            time.sleep(pause)

    def pids(self) -> list[int]:
        """All its processes."""
        return [pid for process in self._processes for pid in tree(process.pid)]

    def memory(self) -> float:
        """Megabytes of all its processes (PSS)."""
        return sum(pss_of_tree(process.pid) for process in self._processes)

    def stop(self) -> None:
        """End it at once, parents before children: the server is emptied before the next one."""
        for process in self._processes:
            for pid in tree(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            # What a parent has started since we looked; they have our process group and no parent any more.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
