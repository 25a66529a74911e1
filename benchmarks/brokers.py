"""Celeriac on each of its brokers, next to Celery on the same server: `make bench BROKERS=1`.

    python benchmarks/brokers.py ENVIRONMENTS [--broker NAME] [--postgres URL] [--rabbitmq URL]
        [--rounds N] [--json FILE]

Redis and SQLite are ours alone. PostgreSQL and RabbitMQ are servers that are there already, as they are set up, in
which a database and a virtual host are made and dropped. Celery reaches PostgreSQL and SQLite by SQLAlchemy, which its
guide calls experimental; it has no other way. What each system was given is in `peers`. Every round measures both, one
after the other, and what is printed is the median over the rounds: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import compare
from report import CELERY, LINES, OURS, Findings, machine, short
from rig import HERE
from rows import ROWS, Scale
from servers import Absent, Server, on_postgres, on_rabbitmq, on_redis, on_sqlite

#: Celery by SQLAlchemy settles some dozens in a second: what is more than this it would not end in time.
SCALE = Scale(waiting=1_000, seconds=1.5, sends_seconds=0.5, latencies=50, memory_seconds=0.0, rounds=2)
MEASURED = ("waiting", "send", "bulk", "settled", "latency", "memory")
SHOWN = (
    "waiting",
    "send",
    "bulk",
    "settled1",
    "settled2",
    "latency50",
    "latency99",
    "idle",
    "idle8",
    "idle100",
)
#: Titles that name Redis mean whichever server it is.
TITLES = {"waiting": "bytes of the server, waiting task"}
STANDARD_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
STANDARD_RABBITMQ = "amqp://guest:guest@127.0.0.1:5672"


def opened(args: argparse.Namespace) -> dict[str, Callable[[], AbstractContextManager[Server]]]:
    """By broker: how its server is opened."""
    return {
        "redis": on_redis,
        "sqlite": on_sqlite,
        "postgresql": lambda: on_postgres(args.postgres),
        "rabbitmq": lambda: on_rabbitmq(args.rabbitmq),
    }


def run(
    broker: str, open_server: Callable[[], AbstractContextManager[Server]], args: argparse.Namespace
) -> Findings:
    """All rounds on one broker."""
    findings = Findings(facts={**machine(HERE.parent), "broker": broker})
    with open_server() as server, tempfile.TemporaryDirectory() as folder:
        server.clear()
        compared = compare.systems([OURS, CELERY], args.environments, server, Path(folder), findings)
        for turn in range(args.rounds):
            for name in MEASURED:
                row = ROWS[name]
                if turn and row.once:
                    continue
                print(f"{broker}, round {turn + 1}: {name}", file=sys.stderr, flush=True)
                for system in reversed(compared) if turn % 2 else compared:
                    compare.measure(name, row, system, SCALE, findings)
    return findings


def told(findings: Findings) -> str:
    """The table of one broker."""
    lines = [f"{findings.facts['broker']:42}{'celeriac':>10}{'celery':>10}{'ratio':>10}"]
    for line in SHOWN:
        ours, theirs, ratio = (
            short(findings.median(line, OURS)),
            short(findings.median(line, CELERY)),
            short(findings.ratio(line, CELERY)),
        )
        lines.append(f"{TITLES.get(line, LINES[line].title):42}{ours:>10}{theirs:>10}{ratio:>10}")
        reasons = findings.reasons.get(line, {})
        lines += [f"  {name}: {why}" for name, why in reasons.items() if findings.median(line, name) is None]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", type=Path)
    parser.add_argument("--broker", choices=["redis", "sqlite", "postgresql", "rabbitmq"])
    parser.add_argument("--postgres", metavar="URL", default=STANDARD_POSTGRES, help=STANDARD_POSTGRES)
    parser.add_argument("--rabbitmq", metavar="URL", default=STANDARD_RABBITMQ, help=STANDARD_RABBITMQ)
    parser.add_argument("--rounds", type=int, default=SCALE.rounds)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures of every round there too"
    )
    args = parser.parse_args()
    found = []
    for broker, open_server in opened(args).items():
        if args.broker not in (None, broker):
            continue
        try:
            found.append(run(broker, open_server, args))
        except Absent as error:
            print(f"{broker}: not measured: {error}")
        else:
            print(told(found[-1]), flush=True)
    if not found:
        sys.exit(1)
    facts = found[0].facts
    print(
        f"{facts['date']}, {facts['commit']}, Python {facts['python']}, {facts['cpus']} CPUs, load {facts['load']} and "
        f"at the end {os.getloadavg()[0]:.2f}; medians of up to {args.rounds} round(s)."
    )
    if args.json:
        args.json.write_text(json.dumps([one.as_json() for one in found], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
