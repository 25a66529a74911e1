"""What can be seen of processes from outside: memory, open files, threads, connections, processor time, commands.

Linux only: it reads /proc.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024


@dataclass(frozen=True)
class Look:
    """One process at one moment. Memory in bytes, `cpu` in seconds.

    `own` is what it has written, or its parent before the fork: unlike other figures, it does not change when
    a page that it shares with another process is no longer shared.
    """

    own: int
    pss: int
    rss: int
    files: int
    threads: int
    cpu: float


def look(pid: int) -> Look | None:
    """That process as it is now; None when it is gone."""
    try:
        memory = _fields(f"/proc/{pid}/smaps_rollup")
        threads = _fields(f"/proc/{pid}/status")["Threads"]
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, KeyError):
        return None
    cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return Look(memory["Anonymous"] * _KIB, memory["Pss"] * _KIB, memory["Rss"] * _KIB, files, threads, cpu)


def _fields(path: str) -> dict[str, int]:
    found = {}
    for line in Path(path).read_text().splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()[:1]
        if value and value[0].isdigit():
            found[name] = int(value[0])
    return found


def file_connections(pid: int, file: Path) -> int:
    """How often a process has that file open."""
    return sum(target == str(file) for target in _targets(pid))


def ports(pid: int, server_port: int) -> set[int]:
    """The local ports by which a process is connected to a server on this machine."""
    inodes = {target[8:-1] for target in _targets(pid) if target.startswith("socket:[")}
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *rest = line.split()
        is_established = state == "01"
        if is_established and int(remote.partition(":")[2], 16) == server_port and rest[5] in inodes:
            found.add(int(local.partition(":")[2], 16))
    return found


def _targets(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"{folder}/{name}"))
    return found


class Connections(threading.Thread):
    """Notes twice a second the most connections that each process has had at once."""

    def __init__(self, pids: list[int], server_port: int | None, file: Path) -> None:
        """`server_port`: of Redis; None counts how often the processes have `file` open instead."""
        super().__init__(name="connections", daemon=True)
        self.most: Counter[int] = Counter()
        self._pids, self._port, self._file = pids, server_port, file
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            for pid in self._pids:
                self.most[pid] = max(self.most[pid], self.now(pid))

    def now(self, pid: int) -> int:
        """How many that process has now."""
        return file_connections(pid, self._file) if self._port is None else len(ports(pid, self._port))

    def end(self) -> None:
        self._ended.set()
        self.join()
