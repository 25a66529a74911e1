"""What the operating system says of this machine, its control group and this process.

The quotas of control groups are read for both of their versions. What a system does not say has a stated stand-in.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from celeriac import plugins

_MADV_DONTNEED: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36


def usable_cpus(cgroup: str = "/sys/fs/cgroup") -> int:
    """How many CPUs this process may use: by affinity, and by the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            words = _text(f"{cgroup}/{quota_file}").split()
            quota = int(words[0])
            period = int(_text(f"{cgroup}/{period_file}") if period_file else words[1])
            if quota > 0 and period > 0:
                count = min(count, max(1, -(-quota // period)))
    return count


def available_memory(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> tuple[int, int] | None:
    """Bytes that can still be had, and in all: of the machine, or of the control group where that is less.

    None: the system does not say.
    """
    known: list[tuple[int, int]] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = [line.partition(":") for line in _text(f"{proc}/meminfo").splitlines()]
        fields = {name: int(text.split()[0]) * 1024 for name, _, text in lines}
        known.append((fields["MemAvailable"], fields["MemTotal"]))
    with contextlib.suppress(OSError, ValueError, KeyError):
        limit, used = (int(_text(f"{cgroup}/memory.{name}")) for name in ("max", "current"))
        pairs = [line.split() for line in _text(f"{cgroup}/memory.stat").splitlines()]
        stat = {name: int(number) for name, number in pairs}
        # Pages of files that nobody uses now are given up when memory is wanted.
        known.append((limit - used + stat["inactive_file"], limit))
    return min(known) if known else None


def resident_memory() -> int:
    """Bytes of memory that this process has now; where the system does not tell, the most it ever had."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_memory()


def own_memory() -> int:
    """Bytes that this process shares with no other; where the system does not tell, the most it ever had."""
    try:
        lines = _text("/proc/self/smaps_rollup").splitlines()
    except OSError:
        return peak_memory()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def peak_memory() -> int:
    """The most bytes of memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def trim_heap() -> None:
    """Give back to the system what is allocated and not in use, where the C library can do that."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        plugins.load("ctypes:CDLL")(None).malloc_trim(0)


def adopt_orphans() -> None:
    """Be the parent of what descends from this process and loses its own, where the system has that: how that ends is
    told here then."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        plugins.load("ctypes:CDLL")(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def unmap_unchanged() -> None:
    """Let go of what this process has read of its programs and libraries: what it needs again is mapped again, at once.

    What an import has touched would count as this process's own for ever. Only mappings without a page that was
    written are let go, so that nothing is lost.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError, ValueError):
        advise = plugins.load("ctypes:CDLL")(None).madvise
        word = plugins.load("ctypes:c_size_t")
        with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as lines:
            for start, end in _unchanged(lines):
                advise(word(start), word(end - start), _MADV_DONTNEED)


def _unchanged(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where files are mapped for reading alone, and nothing of it has been written."""
    place, is_read_only = "", False
    for line in smaps:
        name, *words = line.split()
        if not name.endswith(":"):
            place, is_read_only = name, len(words) > 4 and words[4].startswith("/") and words[0][1] == "-"
        elif name == "Anonymous:" and is_read_only and words[0] == "0":
            start, end = place.split("-")
            yield int(start, 16), int(end, 16)


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
