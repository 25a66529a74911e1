"""Loading by name: the only dynamic import of the package, and the "did you mean" that goes with names.

Four tables name plug-ins as `"module:attribute"` strings (brokers, result stores, pools, commands);
third parties add rows by entry points. Application modules are imported here too, so that one place
decides how an import error is told.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from celeriac.exceptions import ImproperlyConfigured, UnknownScheme


def load(path: str) -> Any:
    """The object that `module:attribute` names.

    Raises:
        ImproperlyConfigured: the module has no such attribute.
        ImportError: the module, or something that it imports, cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    target: Any = importlib.import_module(module_name)
    for part in attribute.split(".") if attribute else ():
        try:
            target = getattr(target, part)
        except AttributeError:
            raise ImproperlyConfigured(f"module {module_name!r} has no {attribute!r} ({path!r})") from None
    return target


@cache
def own(path: str) -> Any:
    """`load` of something of ours that is asked for often: found once."""
    return load(path)


def source_of(module: str) -> str | None:
    """The source of a module that has not been imported; None where it has none. The packages around it are imported.

    Raises: ModuleNotFoundError: there is no such module.
    """
    from importlib.util import find_spec  # only workers ask

    spec = find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    get_source = getattr(spec.loader, "get_source", None)
    source: str | None = None if get_source is None else get_source(module)
    return source


def is_module(name: str) -> bool:
    """Whether there is a module of that name to import; its package has been imported."""
    from importlib.util import find_spec  # what runs modules has imported it

    return find_spec(name) is not None


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean 'x'?` for the known name that is nearest to a misspelt one, else an empty string.

    `cutoff`: how like it that must be, from 0 to 1; see `difflib.get_close_matches`.
    """
    import difflib  # only who misspells something pays for it

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {found[0]!r}?" if found else ""


def find(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """Load the plug-in of that kind (`broker`, `result store`, `pool`) and name, ours or a third party's.

    Raises:
        UnknownScheme: neither the table nor an installed package knows the name.
        ImproperlyConfigured: its driver is not installed; the text says what to install.
    """
    path = table.get(name) or _entry_points(kind).get(name)
    if path is None:
        known = ", ".join(sorted(table))
        raise UnknownScheme(f"no {kind} is called {name!r}.{nearest(name, table)} Known: {known}")
    try:
        return load(path)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] == "celeriac":
            raise
        raise ImproperlyConfigured(
            f"the {kind} {name!r} needs the package {exc.name!r}: "
            f"install it with  pip install 'celeriac[{name.partition('+')[0].removesuffix('s')}]'"
        ) from exc


def _entry_points(kind: str) -> dict[str, str]:
    from importlib.metadata import entry_points

    return {ep.name: ep.value for ep in entry_points(group=f"celeriac.{kind.replace(' ', '_')}s")}
