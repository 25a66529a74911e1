"""What commands print: tables, JSON, lengths of time, progress.

`rich` draws tables and bars on a terminal, where it is installed; anywhere else a table is plain columns, easy to
cut and grep.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from celeriac import clock, plugins
from celeriac.exceptions import ImproperlyConfigured

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NUMERIC: Final = "right"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numeric: Sequence[str] = (), color: bool = True
) -> None:
    """Print rows under headings; the columns named in `numeric` are set to the right."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    drawn = _rich("rich.table:Table") if sys.stdout.isatty() else None
    if drawn is None:
        print(_plain(columns, texts, numeric))
        return
    grid = drawn(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        is_number = name in numeric
        grid.add_column(name, justify=_NUMERIC if is_number else "left", overflow="fold", no_wrap=is_number)
    escape = plugins.load("rich.markup:escape")
    for row in texts:
        grid.add_row(*map(escape, row))
    plugins.load("rich.console:Console")(no_color=not color, highlight=False).print(grid)


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str]) -> str:
    lines = [list(columns), *([cell.replace("\n", " ") for cell in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]

    def pad(place: int, cell: str) -> str:
        return cell.rjust(widths[place]) if columns[place] in numeric else cell.ljust(widths[place])

    return "\n".join(
        "  ".join(pad(place, cell) for place, cell in enumerate(line)).rstrip() for line in lines
    )


def _rich(path: str) -> Any:
    """A part of rich, or None where that is not installed."""
    try:
        return plugins.load(path)
    except ModuleNotFoundError:
        return None


def json(value: Any) -> None:
    """Print a value as JSON; what JSON has no form for as text."""
    encoded = msgspec.json.encode(value, enc_hook=repr)
    print(msgspec.json.format(encoded, indent=2).decode())


@contextlib.contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Generator[Callable[[int], None]]:
    """A bar on the error output while something long goes on; call what it yields with each step's count."""
    bar = _rich("rich.progress:Progress") if sys.stderr.isatty() and not quiet else None
    if bar is None:
        yield lambda count: None
        return
    with bar(console=plugins.load("rich.console:Console")(stderr=True)) as drawn:
        task = drawn.add_task(label, total=total)
        yield lambda count: drawn.advance(task, count)


def age(since: float | None) -> str:
    """How long ago a moment was, in words as short as `3d 4h`; empty for None."""
    return "" if since is None else duration(max(0.0, clock.now() - since))


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, whole = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (whole, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count) or "0s"


def read_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `1d` or `1w`.

    Raises:
        ImproperlyConfigured: it is none of these.
    """
    unit = text[-1:] if text[-1:] in _UNITS else ""
    try:
        return timedelta(seconds=float(text.removesuffix(unit)) * _UNITS.get(unit, 1)).total_seconds()
    except (ValueError, OverflowError):
        raise ImproperlyConfigured(f"{text!r} is not a length of time: write 90s, 15m, 2h or 7d") from None


def moment(stamp: float | None) -> str | None:
    """A point in time in ISO form, in UTC."""
    return None if stamp is None else clock.moment(stamp).isoformat(timespec="seconds")


def count(number: int, noun: str) -> str:
    """`1 message`, `2,000 messages`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
