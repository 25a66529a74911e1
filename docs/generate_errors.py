"""Write docs/reference/errors.md from the tree of exceptions: `python docs/generate_errors.py`."""

from __future__ import annotations

import inspect
from pathlib import Path

from celeriac import exceptions

PAGE = Path(__file__).parent / "reference" / "errors.md"

INTRODUCTION = """\
# Errors and warnings

<!-- Written by docs/generate_errors.py; change the classes in src/celeriac/exceptions.py instead. -->

Everything that Celeriac raises is a `CeleriacError`, from `celeriac.exceptions`. Where Celery had the name, it is
Celery's. A driver's own exceptions are never raised: they are the cause (`__cause__`) of ours.
"""


def kinds() -> list[type[BaseException]]:
    """Every class of errors and warnings, in the order of their module."""
    found = {
        kind
        for _, kind in inspect.getmembers(exceptions, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__ == exceptions.__name__
    }
    return sorted(found, key=lambda kind: inspect.getsourcelines(kind)[1])


def page() -> str:
    """The whole page."""
    warnings = [kind for kind in kinds() if issubclass(kind, Warning)]
    errors = [kind for kind in kinds() if kind not in warnings]
    parts = [INTRODUCTION, "## Errors\n", *map(_entry, errors), "## Warnings\n", *map(_entry, warnings)]
    return "\n".join(parts)


def _entry(kind: type[BaseException]) -> str:
    bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
    aliases = sorted(
        name for name, value in vars(exceptions).items() if value is kind and name != kind.__name__
    )
    also = f" Also called {', '.join(f'`{name}`' for name in aliases)}." if aliases else ""
    text = inspect.cleandoc(kind.__doc__ or "")
    return f"### `{kind.__name__}`\n\n{text}\n\nDerives from {bases}.{also}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
