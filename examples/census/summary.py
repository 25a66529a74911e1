"""From counts to tables: no input, no output, and the same tables whatever the order in which the counts came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from examples.census.tasks import Count

#: Rows of the two rankings.
TOP = 10


@dataclass(frozen=True, slots=True)
class Table:
    """Columns whose name ends in `#` hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summarise(counts: Mapping[str, Count], failures: Mapping[str, BaseException]) -> list[Table]:
    """The tables of a census: totals, largest modules, most imported modules, files that failed."""
    return [_totals(counts, failures), _largest(counts), _most_imported(counts), _failed(failures)]


def _totals(counts: Mapping[str, Count], failures: Mapping[str, BaseException]) -> Table:
    found = counts.values()
    totals = (
        len(counts) + len(failures),
        len(failures),
        sum(one["lines"] for one in found),
        sum(one["functions"] for one in found),
        sum(one["classes"] for one in found),
    )
    return Table(
        "All files",
        ("files #", "failed #", "lines #", "functions #", "classes #"),
        (tuple(f"{number:,}" for number in totals),),
    )


def _largest(counts: Mapping[str, Count]) -> Table:
    ranked = sorted(counts.items(), key=lambda item: (-item[1]["lines"], item[0]))
    rows: list[tuple[str, ...]] = []
    for name, one in ranked[:TOP]:
        length, function = one["longest"]
        numbers = (one["lines"], one["functions"], one["classes"])
        rows.append((name, *(f"{number:,}" for number in numbers), function, f"{length:,}"))
    columns = ("file", "lines #", "functions #", "classes #", "longest function", "its lines #")
    return Table("Largest modules", columns, tuple(rows))


def _most_imported(counts: Mapping[str, Count]) -> Table:
    importers = Counter(module for one in counts.values() for module in one["imports"])
    ranked = sorted(importers.items(), key=lambda item: (-item[1], item[0]))
    rows = tuple((module, f"{number:,}") for module, number in ranked[:TOP])
    return Table("Most imported modules", ("module", "importing files #"), rows)


def _failed(failures: Mapping[str, BaseException]) -> Table:
    rows = tuple((name, f"{type(exc).__name__}: {exc}") for name, exc in sorted(failures.items()))
    return Table("Failed tasks", ("file", "error"), rows)
