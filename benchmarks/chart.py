"""Draws findings as bars on logarithmic scales, one panel for each line: an SVG of our own, for light and dark pages.

python benchmarks/chart.py RESULTS.json > numbers.svg
"""

from __future__ import annotations

import argparse
import json
import math
from html import escape

from report import LIMIT, LINES, OURS, Findings, short
from system import NAMES

WIDTH, COLUMNS, MARGIN = 960, 3, 16
BAR, GAP, TITLE, NAME = 11, 4, 34, 62
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #1f2328 }
.ours { font-weight: 600; fill: #1f2328 }
rect { fill: #8c959f } rect.ours { fill: #1a7f37 } rect.bare { fill: none; stroke: #8c959f; stroke-dasharray: 3 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title, .ours { fill: #f0f6fc }
  rect { fill: #656c76 } rect.ours { fill: #3fb950 } rect.bare { stroke: #9198a1 }
}
""".strip()


def draw(findings: Findings, systems: list[str]) -> str:
    """The whole picture."""
    lines = [line for line in LINES if findings.median(line, OURS)]
    column = (WIDTH - MARGIN * (COLUMNS + 1)) / COLUMNS
    height = TITLE + len(systems) * (BAR + GAP) + MARGIN
    total = math.ceil(len(lines) / COLUMNS) * height + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" role="img" '
        f'aria-label="Celeriac compared with other task queues">',
        f"<style>{STYLE}</style>",
    ]
    for place, line in enumerate(lines):
        across, down = place % COLUMNS, place // COLUMNS
        x, y = MARGIN + across * (column + MARGIN), MARGIN + down * height
        parts += [f'<g transform="translate({x:.0f} {y})">', *panel(findings, line, systems, column), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def panel(findings: Findings, line: str, systems: list[str], width: float) -> list[str]:
    """The bars of one line: twice the figure is always the same step to the right."""
    better = "more is better" if LINES[line].more_is_better else "less is better"
    parts = [
        f'<text class="title" y="10">{escape(LINES[line].title)}</text>',
        f'<text y="24">{better}, logarithmic</text>',
    ]
    figures = {name: findings.median(line, name) for name in systems}
    known = [figure for figure in figures.values() if figure and figure > 0]
    low, high = math.log10(min(known)) - 0.3, math.log10(max(known))
    room = width - NAME - 48
    for place, (name, figure) in enumerate(figures.items()):
        y, kind = TITLE + place * (BAR + GAP), {OURS: "ours", LIMIT: "bare"}.get(name, "peer")
        length = room * (math.log10(figure) - low) / (high - low) if figure in known else 0.0
        parts += [
            f'<text class="{kind}" y="{y + 9}">{escape(name)}</text>',
            f'<rect class="{kind}" x="{NAME}" y="{y}" width="{length:.1f}" height="{BAR}"/>',
            f'<text class="{kind}" x="{NAME + length + 4:.1f}" y="{y + 9}">{short(figure)}</text>',
        ]
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", metavar="RESULTS.json")
    results = parser.parse_args().results
    with open(results, encoding="utf-8") as file:
        findings = Findings.from_json(json.load(file))
    print(draw(findings, [name for name in NAMES if name in findings.versions]), end="")


if __name__ == "__main__":
    main()
