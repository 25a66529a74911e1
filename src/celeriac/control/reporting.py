"""What a bug report says: versions, platform, where messages and results are, and which settings are no defaults."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any, Final

from celeriac.settings import mask

#: Packages whose version may matter.
_PACKAGES: Final = ("celeriac", "msgspec", "hiredis", "gevent", "django", "rich")


def versions() -> list[tuple[str, str]]:
    """Each package and its version, and Python's."""
    python = f"{platform.python_implementation()} {sys.version.split()[0]}"
    return [*((name, _version(name)) for name in _PACKAGES), ("python", python)]


def places(app: Any) -> list[tuple[str, str]]:
    """Where it runs, and where it keeps messages and results. Passwords are masked."""
    conf = app.conf
    return [
        ("platform", platform.platform()),
        ("broker", mask(conf.broker_url)),
        ("results", mask(conf.result_backend) or "at the broker"),
    ]


def changed(app: Any) -> list[Any]:
    """The settings that something gave a value, as `Configuration.rows`."""
    return [row for row in app.conf.rows() if app.conf.value_set_for(row.name)]


def text(app: Any) -> str:
    """All of it, as a text."""
    software = " ".join(f"{name}:{version.replace(' ', '-')}" for name, version in versions())
    rows = [("software", software), *places(app), ("app", app.main or "")]
    lines = [f"{name:<8} -> {value}" for name, value in rows]
    return "\n".join([*lines, "", *(f"{row.name}: {row.value}" for row in changed(app))])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
