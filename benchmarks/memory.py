"""How much memory a process and all that it has started take, in proportional shares (PSS).

    python benchmarks/memory.py PID

A page that several processes share counts once, in parts: the sum over a worker is what its end would free, as far as
the rest of the machine does not share it too. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path


def tree(pid: int) -> list[int]:
    """That process, and what it and its descendants have started and is alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold blanks and parentheses.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += children.get(one, [])
    return found


def pss(pid: int) -> float:
    """Megabytes (of 1,000,000 bytes) of one process; 0 when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
    return 0.0


def pss_of_tree(pid: int) -> float:
    """Megabytes of a process with all its descendants."""
    return sum(pss(one) for one in tree(pid))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pid", type=int)
    pid = parser.parse_args().pid
    for one in tree(pid):
        print(f"{one:>10} {pss(one):8.1f} MB")
    print(f"{'together':>10} {pss_of_tree(pid):8.1f} MB")


if __name__ == "__main__":
    main()
