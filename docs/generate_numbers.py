"""Write the numbers that README.md quotes from benchmarks/results.json: `python docs/generate_numbers.py`.

`make bench KEEP=1` measures them anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results.json"

BEGIN = "<!-- Written by docs/generate_numbers.py from benchmarks/results.json. -->\n"
END = "<!-- End of what is written by docs/generate_numbers.py. -->\n"

sys.path.append(str(ROOT / "benchmarks"))
from report import CELERY, LIMIT, LINES, Findings, fewer, short  # noqa: E402


def page() -> str:
    """The whole README, with the section as the results are."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section()}\n{END}{after}"


def section() -> str:
    """A table of ratios, and where they were measured."""
    findings = Findings.from_json(json.loads(RESULTS.read_text(encoding="utf-8")))
    rows = ["| Celeriac's figure as a multiple of | Celery's | the best other's | bare Redis commands' |",
            "|---|--:|--:|--:|"]  # fmt: skip
    for line in findings.shown():
        best = findings.best_peer(line)
        if findings.median(line, "celeriac") is None:
            continue
        to_best = f"{short(findings.ratio(line, best))} ({best})" if best else "-"
        better = "more is better" if LINES[line].more_is_better else "less is better"
        rows.append(
            f"| {LINES[line].title} ({better}) | {short(findings.ratio(line, CELERY))} | {to_best} "
            f"| {short(findings.ratio(line, LIMIT))} |"
        )
    facts, versions = findings.facts, dict(findings.versions)
    quick = " (`QUICK=1`: small counts)" if facts["quick"] else ""
    done = ", ".join(f"{name} {count:,.0f}" for name, count in fewer(findings).items())
    busy = max(facts["load"], facts.get("load_at_end", 0.0)) > facts["cpus"]
    others = ", ".join(
        f"{name} {version}" for name, version in versions.items() if name not in ("celeriac", LIMIT)
    )
    return "\n".join([
        *rows, "", "![Every system's figures as bars](docs/numbers.svg)", "",
        *([f"Memory after fewer than 100,000 tasks, for want of time: {done}.", ""] if done else []),
        f"{facts['date']}, commit {facts['commit']}, Python {facts['python']}, {facts['cpus']} CPUs, load "
        f"{facts['load']} at the start, medians of up to {findings.rounds()} round(s){quick}; {others}.", "",
        *(["The machine was busy with other work too, so these ratios are rough.", ""] if busy else []),
    ])  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
