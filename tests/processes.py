"""The processes of a worker, as the system shows them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def bare_environ(**more: str) -> dict[str, str]:
    """The environment of a process to start, without settings that a developer has made."""
    bare = {name: text for name, text in os.environ.items() if not name.startswith(("CELERIAC_", "CELERY_"))}
    return bare | more


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def offspring(pid: int) -> list[int]:
    """The processes that this one has started, or adopted, and that run."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in listing.read_text().split()]
    return sorted(child for child in found if is_running(child))


def seconds_used(pid: int) -> float:
    """The processor time that it has taken; none of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def templates(supervisor: int) -> list[int]:
    """The processes that have imported the application and fork children: one, or for a moment none or two."""
    return [pid for pid in offspring(supervisor) if not _has_board(pid)]


def children(supervisor: int) -> list[int]:
    """The processes that run tasks: those of templates, and those that the supervisor has adopted from one."""
    near = offspring(supervisor)
    return [pid for pid in near if _has_board(pid)] + [
        pid for template in near if not _has_board(template) for pid in offspring(template)
    ]


def _has_board(pid: int) -> bool:
    """Whether it shares with the supervisor what it is about, as only those that run tasks do."""
    try:
        return "celeriac-board" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
