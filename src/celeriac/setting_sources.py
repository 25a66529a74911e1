"""Settings as they are given: by a mapping, an object or module, the environment, or the command line.

Each reader finds the settings in its source under any of their names, checks their values, and answers with
one `Given` for each. It keeps no state and warns of nothing: `configuration` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from functools import partial
from inspect import isclass, ismodule, isroutine
from types import NoneType
from typing import Any

import msgspec

from celeriac.exceptions import ImproperlyConfigured, UnknownSetting
from celeriac.plugins import load, nearest
from celeriac.setting_kinds import ANYTHING, is_mapping
from celeriac.settings import OLD_NAMES, SETTINGS
from celeriac.settings_without_effect import OLD_NAMES_WITHOUT_EFFECT, WITHOUT_EFFECT

#: Celery's own environment variables, by the setting that each gives.
CELERY_VARIABLES = (
    ("CELERY_BROKER_URL", "broker_url"),
    ("CELERY_BROKER_READ_URL", "broker_read_url"),
    ("CELERY_BROKER_WRITE_URL", "broker_write_url"),
    ("CELERY_RESULT_BACKEND", "result_backend"),
)
#: What a variable of the environment says of these, the program does not change.
URLS = tuple(name for _, name in CELERY_VARIABLES)
#: The variables that name a settings module, in the order in which they are asked.
MODULE_VARIABLES = ("CELERIAC_CONFIG_MODULE", "CELERY_CONFIG_MODULE")

_PREFIX = "CELERIAC_"
# Variables of ours that are no settings, and those that Kubernetes sets for a service called `celeriac-...`.
_NOT_A_SETTING = re.compile(
    "APP|CONFIG_MODULE|LOADER|SKIP_CHECKS|TRACE_APP|WORKDIR|(TEST|BENCH|DASHBOARD)_.*"
    "|(.*_)?SERVICE_(HOST|PORT)(_.*)?|(.*_)?PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?"
)
_FAMILY = re.compile("(ACCEPT|BEAT|BROKER|REDIS|RESULT|SECURITY|TASK|WORKER)_")
_OLD_FAMILY = re.compile("(CELERY|CELERYD|CELERYBEAT|BROKER)_")
_PLAIN = (NoneType, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, timedelta, date)


class Given(msgspec.Struct, frozen=True):
    """A setting's value, the name that it was given under, and by what."""

    name: str
    value: Any
    key: str
    source: str


def current_name(key: str) -> str | None:
    """Today's name of the setting that the key names: by that name, Celery's old one, or `CELERY_` and it."""
    if key in SETTINGS or key in WITHOUT_EFFECT:
        return key
    known = OLD_NAMES.get(key) or OLD_NAMES_WITHOUT_EFFECT.get(key)
    if known is None and key.startswith("CELERY_"):
        bare = key.removeprefix("CELERY_").lower()
        return bare if bare in SETTINGS or bare in WITHOUT_EFFECT else None
    return known


def unknown(key: str, source: str | None = None) -> UnknownSetting:
    """The error for a name that no setting has, with the nearest that one has."""
    given = f" (given by: {source})" if source else ""
    if key.isupper() and key.lower() in SETTINGS:
        hint = f" Did you mean {key.lower()!r}?"
    elif key.isupper():
        hint = nearest(key, OLD_NAMES) or nearest(key.lower(), SETTINGS)
    else:
        hint = nearest(key, SETTINGS) or nearest(key, WITHOUT_EFFECT)
    return UnknownSetting(f"{key!r} is not a setting{given}.{hint}")


def from_mapping(values: Mapping[str, Any], source: str) -> dict[str, Given]:
    """The settings of a mapping, every key of which must be one.

    Raises:
        UnknownSetting: a key is none.
        ImproperlyConfigured: a value is of the wrong type, or two keys contradict each other.
    """
    found: list[Given] = []
    for key, value in values.items():
        name = current_name(key)
        if name is None:
            raise unknown(key, source)
        found.append(_checked(name, value, key, source))
    return _merged(found)


def from_object(target: Any, source: str, namespace: str | None) -> dict[str, Given]:
    """The settings among the attributes of an object or module, or the items of a mapping.

    With a namespace only what begins with it is read, and all of that must be settings. Without one, all keys
    of a mapping must be; of an object or module, every plain value with a lower-case name.

    Raises:
        UnknownSetting: a name looks like a setting and is none.
        ImproperlyConfigured: a value is of the wrong type, or two names contradict each other.
    """
    prefix = namespace.rstrip("_").upper() + "_" if namespace else ""
    if is_mapping(target):
        mapping: dict[str, Any] = {str(key): value for key, value in target.items()}
        if not prefix:
            return from_mapping(mapping, source)
        return _merged(_in_namespace(mapping, mapping.get, source, prefix))
    if prefix:
        return _merged(_in_namespace(dir(target), partial(getattr, target), source, prefix))
    return _merged(_among_attributes(target, source))


def from_environ(environ: Mapping[str, str]) -> dict[str, Given]:
    """The settings that environment variables give; an empty variable gives none.

    Celery's `CELERY_BROKER_URL` and the like count where the `CELERIAC_` variable is not set.

    Raises:
        UnknownSetting: a `CELERIAC_` variable looks like a setting and is none.
        ImproperlyConfigured: a value cannot be read.
    """
    found = {
        name: _read(name, environ[variable], variable, f"environment variable {variable}")
        for variable, name in CELERY_VARIABLES
        if environ.get(variable)
    }
    for variable, text in environ.items():
        bare = variable.removeprefix(_PREFIX)
        if bare == variable or not text or _NOT_A_SETTING.fullmatch(bare):
            continue
        name = bare.lower()
        if name in SETTINGS or name in WITHOUT_EFFECT:
            found[name] = _read(name, text, variable, f"environment variable {variable}")
        elif _FAMILY.match(bare) or _near(name, SETTINGS):
            hint = nearest(variable, [row.variable for row in SETTINGS.values()])
            raise UnknownSetting(f"{variable!r} is not a setting (given by: the environment).{hint}")
    return found


def from_pairs(pairs: Iterable[str], namespace: str) -> dict[str, Given]:
    """The settings of a command line's `task_acks_late=no` and `worker.prefetch_multiplier=1`.

    A pair that begins with a dot (`.prefetch_multiplier=1`) belongs to the namespace.

    Raises:
        UnknownSetting: a name is none of a setting.
        ImproperlyConfigured: a pair has no `=`, a value cannot be read, or two pairs contradict each other.
    """
    found: list[Given] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ImproperlyConfigured(
                f"{pair!r} is not a setting: write name=value (given by: command line)."
            )
        dotted = f"{namespace}{key}" if key.startswith(".") else key
        name = current_name(dotted.strip().replace(".", "_"))
        if name is None:
            raise unknown(dotted.strip().replace(".", "_"), "command line")
        found.append(_read(name, text, key, "command line"))
    return _merged(found)


def from_flags(flags: Mapping[str, Any]) -> dict[str, Given]:
    """The settings that command line flags give, by name; texts are read, other values checked."""
    found: dict[str, Given] = {}
    for key, value in flags.items():
        if key not in SETTINGS:
            raise unknown(key, "command line")
        source = f"command line flag {SETTINGS[key].flag}" if SETTINGS[key].flag else "command line"
        reader = _read if isinstance(value, str) else _checked
        found[key] = reader(key, value, key, source)
    return found


def open_target(path: str) -> Any:
    """The module that a dotted path names, or its attribute: `proj.settings`, `proj.settings:Config`.

    Raises:
        ImproperlyConfigured: the path ends in `.py`, or the module has no such attribute.
        ImportError: the module, or something that it imports, cannot be imported.
    """
    if path.endswith(".py"):
        raise ImproperlyConfigured(f"{path!r} is a file; a module is named without '.py': {path[:-3]!r}")
    try:
        return load(path)
    except ModuleNotFoundError as exc:
        parent, dot, attribute = path.rpartition(".")
        if exc.name != path or not dot or ":" in path:
            raise
        return load(f"{parent}:{attribute}")


def _in_namespace(
    keys: Iterable[str], value_of: Callable[[str], Any], source: str, prefix: str
) -> Iterable[Given]:
    for key in keys:
        if not key.upper().startswith(prefix):
            continue
        bare = key[len(prefix) :]
        name = current_name(bare.lower()) or current_name(bare) or current_name(f"CELERY_{bare}")
        if name is None:
            hint = nearest(prefix + bare.upper(), [prefix + known.upper() for known in SETTINGS])
            raise UnknownSetting(f"{key!r} is not a setting (given by: {source}).{hint}")
        yield _checked(name, value_of(key), key, source)


def _among_attributes(target: Any, source: str) -> Iterable[Given]:
    for key in dir(target):
        if key.startswith("_"):
            continue
        name = current_name(key)
        if name is None and key.isupper():
            if _OLD_FAMILY.match(key) or _near(key, OLD_NAMES):
                raise unknown(key, source)
            continue
        value = getattr(target, key)
        is_imported = ismodule(value) or isclass(value) or isroutine(value)
        if name is None and type(value) in _PLAIN:
            raise unknown(key, source)
        # `from datetime import timezone` at the top of a settings module is not a time zone.
        if name is None or (is_imported and getattr(SETTINGS.get(name), "kind", None) is not ANYTHING):
            continue
        yield _checked(name, value, key, source)


def _near(key: str, known: Iterable[str]) -> bool:
    return nearest(key, known, cutoff=0.85) != ""


def _checked(name: str, value: Any, key: str, source: str) -> Given:
    row = SETTINGS.get(name)
    return Given(name, row.check(value, source) if row else value, key, source)


def _read(name: str, text: str, key: str, source: str) -> Given:
    row = SETTINGS.get(name)
    return Given(name, row.read(text, source) if row else text, key, source)


def _merged(found: Iterable[Given]) -> dict[str, Given]:
    merged: dict[str, Given] = {}
    for given in found:
        first = merged.setdefault(given.name, given)
        if first is not given and first.value != given.value:
            raise ImproperlyConfigured(
                f"{first.key!r} and {given.key!r} are two names of one setting and contradict each other "
                f"(given by: {given.source}). Keep {given.name!r}."
            )
    return merged
