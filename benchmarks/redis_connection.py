"""Our Redis connection against redis-py: what each costs to import and for each call, in one run.

    python benchmarks/redis_connection.py        needs redis-server, and for the comparison: pip install redis

Measures the figures of docs/design/0002-lean-redis-connection.md, on a server of its own that it starts and ends.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rig import private_redis

ROUNDS, CALLS = 20, 1000
SCRIPT = "redis.call('RPUSH', KEYS[1], ARGV[1]) return 1"
STATEMENTS = (
    "import hiredis",
    "import celeriac.exceptions, celeriac.urls",
    "import celeriac.drivers.redis",
    "import redis",
)
KEY = "celeriac-benchmark-connection"
MESSAGE = b"x" * 98
PROBE = """
import sys, time
def pss():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
before, modules, started = pss(), len(sys.modules), time.perf_counter()
{statement}
print(len(sys.modules) - modules, (time.perf_counter() - started) * 1000, (pss() - before) / 1000)
"""


def imports(statement: str) -> str:
    """Modules, milliseconds and MB (PSS) of a statement in a fresh interpreter: the median of five by time."""
    runs: list[tuple[float, str, float]] = []
    for _ in range(5):
        command = [sys.executable, "-c", PROBE.format(statement=statement)]
        modules, took, memory = subprocess.run(
            command, capture_output=True, check=True, text=True
        ).stdout.split()
        runs.append((float(took), modules, float(memory)))
    took, modules, memory = sorted(runs)[2]
    return f"{modules:>5} modules {took:7.1f} ms {memory:7.1f} MB"


def calls(named: dict[str, Callable[[], Any]]) -> None:
    """Print the microseconds of one call of each: the best of many rounds, in turn, so that none has the quiet time."""
    best = dict.fromkeys(named, float("inf"))
    for _ in range(ROUNDS):
        for name, call in named.items():
            started = time.perf_counter()
            for _ in range(CALLS):
                call()
            best[name] = min(best[name], time.perf_counter() - started)
    for name, seconds in best.items():
        print(f"  {name:44}{seconds / CALLS * 1e6:5.1f} us {CALLS / seconds:9,.0f} a second")


def measure(url: str) -> None:
    """Print what one call costs by each of the connections."""
    from celeriac import urls
    from celeriac.brokers.redis_keys import SCRIPTS, Keyspace
    from celeriac.drivers.redis import Address, Connection

    address = Address(urls.parse(url), {})
    ours, base = Connection(address, 5.0), Keyspace(address).base("benchmark")
    digest = ours.call("SCRIPT", "LOAD", SCRIPT)
    named: dict[str, Callable[[], Any]] = {
        "ours, RPUSH": lambda: ours.call("RPUSH", KEY, MESSAGE),
        "ours, a script that does it": lambda: ours.call("EVALSHA", digest, 1, KEY, MESSAGE),
        "ours, the broker's script `send`": lambda: ours.script(SCRIPTS["send"], base, 0, "", MESSAGE),
    }
    try:
        import redis
    except ImportError:
        print("  redis-py is not installed: nothing to compare with")
    else:
        client: Any = redis.Redis
        theirs = client.from_url(url)
        script = theirs.register_script(SCRIPT)
        named["redis-py, RPUSH"] = lambda: theirs.rpush(KEY, MESSAGE)
        named["redis-py, the first script"] = lambda: script([KEY], [MESSAGE])
    calls(named)
    ours.close()


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    print("import, beyond the bare interpreter")
    for statement in STATEMENTS:
        try:
            print(f"  {statement:44}{imports(statement)}")
        except subprocess.CalledProcessError:
            print(f"  {statement:44}not installed")
    print(f"one call that stores {len(MESSAGE)} bytes: the best of {ROUNDS} rounds of {CALLS:,}")
    with private_redis() as port:
        measure(f"redis://127.0.0.1:{port}/0")


if __name__ == "__main__":
    main()
