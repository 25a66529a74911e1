"""What a comparison has found: as a table for people, and as JSON with the machine and the commit."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rows import ROWS, Line

OURS, CELERY, LIMIT = "celeriac", "celery", "bare"
LINES: dict[str, Line] = {name: line for row in ROWS.values() for name, line in row.lines.items()}


@dataclass
class Findings:
    """Figures by line and system, one for each round, and the reason where there is none."""

    versions: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, system: str, measured: dict[str, float]) -> None:
        for line, figure in measured.items():
            self.figures.setdefault(line, {}).setdefault(system, []).append(figure)

    def excuse(self, system: str, lines: Iterator[str] | list[str], reason: str) -> None:
        """Why these lines have no figure for this system."""
        for line in lines:
            self.reasons.setdefault(line, {}).setdefault(system, reason)

    def median(self, line: str, system: str) -> float | None:
        found = self.figures.get(line, {}).get(system)
        return statistics.median(found) if found else None

    def rounds(self) -> int:
        """How many rounds there were, for the lines that had most."""
        return max((len(found) for systems in self.figures.values() for found in systems.values()), default=0)

    def best_peer(self, line: str) -> str | None:
        """The best of those that are neither ours nor the limit; Celery is one of them."""
        peers = {
            name: statistics.median(found)
            for name, found in self.figures.get(line, {}).items()
            if name not in (OURS, LIMIT)
        }
        if not peers:
            return None
        return (max if LINES[line].more_is_better else min)(peers, key=lambda name: peers[name])

    def ratio(self, line: str, other: str | None) -> float | None:
        """Ours to the other's."""
        ours, theirs = self.median(line, OURS), self.median(line, other) if other else None
        return ours / theirs if ours is not None and theirs else None

    def verdict(self, line: str) -> str:
        """`ok` or `MISSED` with what is required, where something is."""
        required = LINES[line].required
        if required is None:
            return ""
        figure = self.median(line, OURS) if required.than is None else self.ratio(line, required.than)
        wanted = f"{'>=' if required.at_least else '<='} {required.figure:g}"
        if required.than:
            wanted += f" x {required.than}"
        if figure is None:
            return f"? {wanted}"
        met = figure >= required.figure if required.at_least else figure <= required.figure
        return f"{'ok' if met else 'MISSED'} {wanted}"

    def shown(self) -> list[str]:
        return [line for line in LINES if line in self.figures or line in self.reasons]

    def as_json(self) -> dict[str, Any]:
        return {
            "facts": self.facts,
            "versions": self.versions,
            "figures": {
                line: {
                    name: [float(f"{figure:.4g}") for figure in found] for name, found in by_system.items()
                }
                for line, by_system in self.figures.items()
            },
            "reasons": self.reasons,
        }

    @classmethod
    def from_json(cls, form: dict[str, Any]) -> Findings:
        return cls(form["versions"], form["figures"], form["reasons"], form["facts"])


def short(figure: float | None) -> str:
    """Three digits that count: 0.0402, 1.13, 67.4, 115, 4.35k, 120k."""
    if figure is None:
        return "-"
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if figure >= size:
            return f"{_digits(figure / size)}{unit}"
    return _digits(figure)


def _digits(figure: float) -> str:
    return f"{figure:.0f}" if figure >= 99.95 else f"{figure:#.3g}".rstrip(".")


def table(findings: Findings, systems: list[str]) -> str:
    """Figures of all, our ratio to Celery, to the best peer and to the bare limit, and what is required."""
    peer = [line for line in findings.shown() if line in findings.figures]
    head = ["", *systems, "/ celery", "/ best peer", "/ bare", "required"]
    body = []
    for line in findings.shown():
        best = findings.best_peer(line) if line in peer else None
        to_best = f"{short(findings.ratio(line, best))} {best}" if best else "-"
        body.append([
            LINES[line].title,
            *(short(findings.median(line, name)) for name in systems),
            short(findings.ratio(line, CELERY)), to_best, short(findings.ratio(line, LIMIT)),
            findings.verdict(line),
        ])  # fmt: skip
    widths = [max(len(row[place]) for row in [head, *body]) for place in range(len(head))]
    lines = [_row(head, widths), *(_row(row, widths) for row in body)]
    return "\n".join([*lines, *(f"- {note}" for note in notes(findings))])


def notes(findings: Findings) -> list[str]:
    """Why there is no figure, and where one means something else than its title."""
    missing: dict[tuple[str, str], list[str]] = {}
    for line in findings.shown():
        for name, reason in findings.reasons.get(line, {}).items():
            missing.setdefault((name, reason), []).append(LINES[line].title)
    found = [
        f"{name}: {reason} ({'every row' if len(titles) == len(LINES) else '; '.join(titles)})"
        for (name, reason), titles in missing.items()
    ]
    title = LINES["used"].title
    return found + [
        f"{title}: {name} did {count:,.0f}, for want of time" for name, count in fewer(findings).items()
    ]


def fewer(findings: Findings) -> dict[str, float]:
    """Who had run how many tasks when its memory was measured, of those that had no time for all."""
    done = {name: counts[0] for name, counts in findings.figures.get("used_after", {}).items()}
    return {name: count for name, count in done.items() if count < findings.facts["memory_tasks"]}


def _row(cells: list[str], widths: list[int]) -> str:
    first, *others, last = (
        cell.ljust(width) if place in (0, len(cells) - 1) else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others, last]).rstrip()


def machine(root: Path) -> dict[str, Any]:
    """Where and of what the figures are."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _said("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "redis": _said("redis-server", "--version"),
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
