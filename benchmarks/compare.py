"""Celeriac, Celery and seven others side by side, in one run on one Redis of its own: `make bench`.

    python benchmarks/compare.py ENVIRONMENTS [--row NAME] [--system NAME] [--quick] [--minutes N] [--keep]

ENVIRONMENTS is the directory that `install.py` has filled. Every round measures all systems one after the other, and
what is printed is the median over the rounds: the machine's noise then meets all of them. It ends in time: on a machine
that is too slow or too busy, rounds are left out, and rows if it must be. `--keep` writes what the README quotes.

The machine's absolute figures mean little: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import chart
from report import Findings, machine, table
from rig import HERE
from rows import QUICK, ROWS, Row, Scale
from servers import Server, on_redis
from system import NAMES, Missing, System

#: What is begun before has a minute to end in.
MINUTES, QUICK_MINUTES = 13.0, 2.5
RESULTS = HERE / "results.json"
CHART = HERE.parent / "docs" / "numbers.svg"


def systems(
    names: list[str], environments: Path, server: Server, folder: Path, findings: Findings
) -> list[System]:
    """Those that are installed; of the others the findings say why they are missing."""
    found = []
    for name in names:
        python = environments / name / "bin" / "python"
        try:
            if not python.exists():
                raise Missing("not installed")
            found.append(System(name, str(python), server, folder))
            findings.versions[name] = found[-1].version
        except Missing as missing:
            findings.excuse(name, [line for row in ROWS.values() for line in row.lines], str(missing))
    return found


def measure(row_name: str, row: Row, system: System, scale: Scale, findings: Findings) -> None:
    """One row of one system, once. What goes wrong is this system's reason for this row, and no more."""
    if row_name in system.cannot:
        findings.excuse(system.name, list(row.lines), system.cannot[row_name])
        return
    system.clear()
    try:
        found = row.measure(system, scale)
        findings.add(system.name, found)
        # Only a worker with slots can be without a line that others have.
        findings.excuse(
            system.name, [line for line in row.lines if line not in found], system.cannot.get("naps", "")
        )
    except (Missing, RuntimeError) as error:
        reason = " ".join(str(error).split())
        print(f"{system.name}, {row_name}: {reason}", file=sys.stderr)
        findings.excuse(system.name, list(row.lines), f"failed: {reason[-160:]}")


def run(args: argparse.Namespace) -> Findings:
    """All rounds."""
    findings = Findings(facts=machine(HERE.parent))
    scale = QUICK if args.quick else Scale()
    rows = {name: row for name, row in ROWS.items() if args.row in (None, name)}
    began = time.monotonic()
    deadline = began + 60 * (args.minutes or (QUICK_MINUTES if args.quick else MINUTES))
    with on_redis() as server, tempfile.TemporaryDirectory() as folder:
        compared = systems(args.systems, args.environments, server, Path(folder), findings)
        for turn in range(scale.rounds):
            for name, row in rows.items():
                if turn and (row.once or time.monotonic() > deadline):
                    continue
                print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
                # From either end in turn: whoever comes first does so in one round only.
                for system in reversed(compared) if turn % 2 else compared:
                    if turn or time.monotonic() < deadline:
                        measure(name, row, system, scale, findings)
                    else:
                        findings.excuse(system.name, list(row.lines), "no time was left")
    findings.facts |= {
        "seconds": round(time.monotonic() - began),
        "quick": args.quick,
        "memory_tasks": scale.memory_tasks,
        "load_at_end": round(os.getloadavg()[0], 2),
    }
    return findings


def chosen(args: argparse.Namespace) -> list[str]:
    """The systems to measure: with one alone come those that it is compared to."""
    if args.system is None:
        return list(NAMES)
    return [name for name in NAMES if name in {"celeriac", "celery", args.system, "bare"}]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", type=Path)
    parser.add_argument("--row", choices=list(ROWS))
    parser.add_argument("--system", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="small counts and one round")
    parser.add_argument(
        "--minutes", type=float, help=f"begin nothing after so long; {MINUTES}, quick {QUICK_MINUTES}"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures of every round there too"
    )
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results.json and the chart")
    args = parser.parse_args()
    if args.keep and (args.row or args.system):
        parser.error("--keep keeps a whole comparison, not a part of one")
    args.systems = chosen(args)
    findings = run(args)
    print(table(findings, args.systems))
    facts = findings.facts
    print(
        f"{facts['date']}, {facts['commit']}, Python {facts['python']}, {facts['cpus']} CPUs, "
        f"load {facts['load']} and at the end {facts['load_at_end']}, "
        f"{facts['seconds']} s; medians of up to {findings.rounds()} round(s). Ratios are Celeriac's to the other's."
    )
    text = json.dumps(findings.as_json(), indent=1, sort_keys=True) + "\n"
    if args.json:
        args.json.write_text(text, encoding="utf-8")
    if args.keep:
        RESULTS.write_text(text, encoding="utf-8")
        CHART.write_text(chart.draw(findings, args.systems), encoding="utf-8")


if __name__ == "__main__":
    main()
