"""Finding the application that a command line names: `-A proj`.

A name is a module (`proj`, `proj.tasks`) or an attribute of one (`proj:app`, `proj.celery:app`, `proj.app`). In
a module the application is the attribute `app`, `celeriac` or `celery`, else the only application among its names; in
a package it may also be in a submodule called `celeriac`, `celery`, `app` or `tasks`.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any, Final

from celeriac import plugins
from celeriac.app import Celeriac
from celeriac.exceptions import ImproperlyConfigured

_ATTRIBUTES: Final = ("app", "celeriac", "celery")
_SUBMODULES: Final = ("celeriac", "celery", "app", "tasks")


def find_app(name: str) -> Celeriac:
    """The application of that name. The working directory is put on the path of modules.

    Raises:
        ImproperlyConfigured: there is none; the text says where it was looked for.
        ImportError: a module that is there cannot be imported.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    tried: list[str] = []
    module_name, colon, attribute = name.partition(":")
    found = _named(module_name, attribute, tried) if colon else _search(name, tried)
    if found is None:
        raise ImproperlyConfigured(
            f"no application was found under {name!r}. Looked for: {', '.join(tried)}. Name it as "
            "`module:attribute`, as in  -A proj.celery:app"
        )
    return found


def _named(module_name: str, attribute: str, tried: list[str]) -> Celeriac | None:
    tried.append(f"{module_name}:{attribute}")
    module = _load(module_name, tried)
    if module is None:
        return None
    target: Any = module
    for part in attribute.split("."):
        target = getattr(target, part, None)
    if isinstance(target, ModuleType):
        return _within(target, tried)
    if callable(target) and not isinstance(target, Celeriac):
        target = target()  # a factory: `-A proj:make_app`
    return target if isinstance(target, Celeriac) else None


def _search(name: str, tried: list[str]) -> Celeriac | None:
    module = _load(name, tried)
    if module is not None:
        return _within(module, tried)
    parent, dot, attribute = name.rpartition(".")
    return _named(parent, attribute, tried) if dot else None


def _within(module: ModuleType, tried: list[str]) -> Celeriac | None:
    """The application among a module's names, or in a submodule of the usual name."""
    for attribute in _ATTRIBUTES:
        tried.append(f"{module.__name__}:{attribute}")
        if isinstance(found := getattr(module, attribute, None), Celeriac):
            return found
    if hasattr(module, "__path__"):
        for name in _SUBMODULES:
            inner = _load(f"{module.__name__}.{name}", tried)
            if inner is not None and (found := _within(inner, tried)) is not None:
                return found
    apps = {id(value): value for value in vars(module).values() if isinstance(value, Celeriac)}
    return next(iter(apps.values())) if len(apps) == 1 else None


def _load(name: str, tried: list[str]) -> ModuleType | None:
    """The module, or None where there is none of that name. What it raises itself is raised."""
    tried.append(name)
    try:
        module: ModuleType = plugins.load(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise
        return None
    return module
