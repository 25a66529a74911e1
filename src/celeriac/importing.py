"""Finding modules to import: task modules of packages, and what the environment names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from celeriac import plugins
from celeriac.exceptions import ImproperlyConfigured


def environment(variable: str) -> str | None:
    """The value of an environment variable, or None where it is unset or empty."""
    return os.environ.get(variable) or None


def colon(path: str) -> str:
    """`module.attribute` as `module:attribute`; what has a colon stays."""
    if ":" in path or "." not in path:
        return path
    module, _, attribute = path.rpartition(".")
    return f"{module}:{attribute}"


def import_related(package: str, related: str | None) -> Any:
    """Import `package.related` if there is such a module, else nothing. What it raises is raised."""
    if related is None:
        return plugins.load(package)
    plugins.load(package)
    name = f"{package}.{related}"
    try:
        return plugins.load(name)
    except ModuleNotFoundError as exc:
        if exc.name != name:
            raise
        return None


def related_module(package: str, related: str | None) -> str | None:
    """The name of `package.related` if there is such a module, without importing it."""
    if related is None:
        return package
    name = f"{package}.{related}"
    try:
        plugins.source_of(name)
    except ModuleNotFoundError as exc:
        if exc.name != name:
            raise
        return None
    return name


def django_apps() -> Iterable[str]:
    """The packages of Django's installed applications.

    Raises: ImproperlyConfigured: Django is not set up.
    """
    if "django" not in sys.modules:
        raise ImproperlyConfigured(
            "autodiscover_tasks() without packages asks Django for its applications, and Django is not imported: "
            "give the packages"
        )
    configs = plugins.load("django.apps:apps").get_app_configs()
    return [config.name for config in configs]
