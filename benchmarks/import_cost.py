"""What imports cost: modules, milliseconds and proportional memory (PSS), each in a fresh interpreter.

python benchmarks/import_cost.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys

CASES = {
    "bare interpreter": "pass",
    "import msgspec": "import msgspec",
    "import celeriac": "import celeriac",
    "from celeriac import Celeriac": "from celeriac import Celeriac",
    "supervisor, Redis": "import celeriac.supervisor.main, celeriac.brokers.redis",
    "supervisor, SQLite": "import celeriac.supervisor.main, celeriac.brokers.sqlite",
    "supervisor with its logs, Redis": "import celeriac.supervisor.__main__, celeriac.brokers.redis",
}
PROBE = """
import sys, time
before = len(sys.modules)
started = time.perf_counter()
{statement}
took = time.perf_counter() - started
try:
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
except OSError:
    memory = 0
print(len(sys.modules) - before, took * 1000, memory)
"""


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    print(f"{'':34}{'modules':>9}{'ms':>9}{'PSS MB':>9}")
    for name, statement in CASES.items():
        runs = []
        for _ in range(5):
            command = [sys.executable, "-c", PROBE.format(statement=statement)]
            modules, took, memory = subprocess.run(command, capture_output=True, check=True).stdout.split()
            runs.append((float(took), int(modules), int(memory)))
        took, modules, memory = sorted(runs)[2]
        print(f"{name:34}{modules:9}{took:9.1f}{memory / 1000:9.1f}")


if __name__ == "__main__":
    main()
