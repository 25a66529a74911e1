"""An application's settings: the values, where each comes from, and reading and writing them.

`Configuration` is what users know as `app.conf`. Values are resolved when they are given, so that reading one
is reading an attribute. Sources, from the weakest: defaults, `add_defaults`, a settings object or module, the
environment, what the program writes, URLs of the environment, the command line.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from enum import IntEnum
from typing import Any

import msgspec

from celeriac import setting_sources as sources
from celeriac.exceptions import ImproperlyConfigured, SettingHasNoEffect
from celeriac.setting_sources import Given
from celeriac.settings import SETTINGS, Setting, mask
from celeriac.settings_without_effect import NOT_YET, OPTIONS_WITHOUT_EFFECT, WITHOUT_EFFECT
from celeriac.urls import MASK


class Level(IntEnum):
    """How strong a source is; a stronger one wins whenever it is read."""

    DEFAULT = 0
    ADDED_DEFAULT = 1
    OBJECT = 2
    ENVIRONMENT = 3
    WRITTEN = 4
    #: URLs from the environment: with Celery too they win over what the program says.
    ENVIRONMENT_URL = 5
    COMMAND_LINE = 6


class ConfigRow(msgspec.Struct, frozen=True):
    """One line of `celeriac config`: texts to print, with passwords masked."""

    name: str
    value: str
    source: str
    default: str


class Configuration:
    """The settings of one application.

    A setting is read and written as an attribute or an item, under its name or under Celery's old one.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Start with the defaults and the environment's variables; `environ` stands in for the process's own.

        Raises:
            ImproperlyConfigured: a variable names no setting, or its value cannot be read.
        """
        self._environ = os.environ if environ is None else environ
        self._frozen_by: str | None = None
        self._without_effect: dict[str, Any] = {}
        self._warned: set[str] = set()
        self._levels: dict[Level, dict[str, Given]] = {level: {} for level in Level}
        # Copied, so that `conf.beat_schedule["x"] = ...` changes this application only.
        defaults = {
            row.name: Given(row.name, copy.copy(row.default), row.name, "default")
            for row in SETTINGS.values()
        }
        self._apply(Level.DEFAULT, defaults)
        given = sources.from_environ(self._environ)
        urls = {name: given.pop(name) for name in sources.URLS if name in given}
        self._apply(Level.ENVIRONMENT, given)
        self._apply(Level.ENVIRONMENT_URL, urls)

    def config_from_object(self, target: Any, namespace: str | None = None) -> None:
        """Read the settings of an object, module or mapping, or of what `module` or `module:attribute` names.

        Raises:
            ImproperlyConfigured: a name is no setting (`UnknownSetting`), a value cannot be one, or two names
                of one setting contradict each other.
            ImportError: the module cannot be imported.
        """
        opened = sources.open_target(target) if isinstance(target, str) else target
        source = f"module {target}" if isinstance(target, str) else _describe(opened)
        self._apply(Level.OBJECT, sources.from_object(opened, source, namespace))

    def config_from_environment_module(self) -> bool:
        """Read the module named by `CELERIAC_CONFIG_MODULE` or `CELERY_CONFIG_MODULE`; False if none is."""
        for variable in sources.MODULE_VARIABLES:
            if name := self._environ.get(variable):
                self.config_from_object(name)
                return True
        return False

    def config_from_cmdline(self, pairs: Iterable[str], namespace: str = "worker") -> None:
        """Read `name=value` texts; `worker.prefetch_multiplier=1` is `worker_prefetch_multiplier=1`."""
        self._apply(Level.COMMAND_LINE, sources.from_pairs(pairs, namespace))

    def config_from_flags(self, flags: Mapping[str, Any]) -> None:
        """Take what command line flags gave, by setting name; texts are read as their setting's type."""
        self._apply(Level.COMMAND_LINE, sources.from_flags(flags))

    def add_defaults(self, values: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Replace defaults; anything that was or will be configured wins over them."""
        given = values() if callable(values) else values
        self._apply(Level.ADDED_DEFAULT, sources.from_mapping(given, "add_defaults"))

    def write(self, values: Mapping[str, Any], source: str) -> None:
        """Set several settings, all or none of them; `source` is told by `source_of` and in errors."""
        self._apply(Level.WRITTEN, sources.from_mapping(values, source))

    def update(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Set several settings, all or none of them."""
        self.write({**(values or {}), **named}, "the program")

    def freeze(self, reason: str) -> None:
        """Refuse writes from now on. The reason completes `the settings are fixed since ...`."""
        self._frozen_by = self._frozen_by or reason

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or the default given here where no setting has that name."""
        return self[name] if name in self else default

    def keys(self) -> KeysView[str]:
        """The names of all settings."""
        return self._values().keys()

    def values(self) -> ValuesView[Any]:
        """The values of all settings."""
        return self._values().values()

    def items(self) -> ItemsView[str, Any]:
        """The names and values of all settings."""
        return self._values().items()

    def source_of(self, name: str) -> str:
        """What gave a setting its value: `default`, `module proj.settings`, `environment variable X`..."""
        return self._strongest(self._honoured(name).name).source

    def value_set_for(self, name: str) -> bool:
        """Whether anything but the default gave the setting its value."""
        return self._honoured(name).name in self.without_defaults()

    def find_option(self, name: str) -> Setting:
        """The row that describes a setting, under any of its names."""
        return self._honoured(name)

    def without_defaults(self) -> dict[str, Any]:
        """The settings that something gave a value, defaults left out."""
        given = {name for level, layer in self._levels.items() if level > Level.DEFAULT for name in layer}
        return {name: value for name, value in self._values().items() if name in given}

    @property
    def changes(self) -> dict[str, Any]:
        """What the program and the command line set."""
        written = self._levels[Level.WRITTEN].keys() | self._levels[Level.COMMAND_LINE].keys()
        return {name: value for name, value in self._values().items() if name in written}

    def table(self, with_defaults: bool = True, censored: bool = True) -> dict[str, Any]:
        """Names and values as a dict; passwords are masked unless `censored` is off."""
        values = self._values() if with_defaults else self.without_defaults()
        return {name: _censor(name, value) if censored else value for name, value in values.items()}

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """The table as lines of text."""
        table = self.table(with_defaults, censored)
        return "\n".join(f"{name}: {value!r}" for name, value in table.items())

    def rows(self) -> list[ConfigRow]:
        """Every setting with its value, source and default, ready to print; passwords are masked."""
        return [
            ConfigRow(
                row.name, row.show(self.__dict__[row.name]), self.source_of(row.name), row.show(row.default)
            )
            for row in SETTINGS.values()
        ]

    def __getattr__(self, name: str) -> Any:
        # Reached only by names that are no attribute: old names, settings without effect, and mistakes.
        if name.startswith("_"):
            raise AttributeError(name)
        known = sources.current_name(name)
        if known is not None and known in WITHOUT_EFFECT:
            return self._without_effect.get(known)
        return self.__dict__[self._honoured(name).name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self.update({name: value})

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name] if name in SETTINGS else self.__getattr__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and sources.current_name(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(SETTINGS)

    def __repr__(self) -> str:
        return f"<Configuration: {self.table(with_defaults=False)!r}>"

    def _values(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in SETTINGS}

    def _honoured(self, name: str) -> Setting:
        known = sources.current_name(name)
        if known is None or known not in SETTINGS:
            raise sources.unknown(name)
        return SETTINGS[known]

    def _strongest(self, name: str) -> Given:
        return next(self._levels[level][name] for level in reversed(Level) if name in self._levels[level])

    def _apply(self, level: Level, given: Mapping[str, Given]) -> None:
        """Take values from a source that have all been checked: all of them, or none."""
        if self._frozen_by and given:
            names = ", ".join(map(repr, given))
            raise ImproperlyConfigured(
                f"{names} cannot be set now: the settings are fixed since {self._frozen_by}. Set it earlier."
            )
        for name in given.keys() & WITHOUT_EFFECT.keys():
            self._refuse_if_missed(given[name], given)
        for name in given.keys() & SETTINGS.keys():
            self._levels[level][name] = given[name]
            self.__dict__[name] = self._strongest(name).value
        for name, one in given.items():
            if name in WITHOUT_EFFECT:
                self._without_effect[name] = one.value
                self._warn(one.key, WITHOUT_EFFECT[name].why, one.source)
            elif name in NOT_YET and one.value != SETTINGS[name].default:
                self._warn(one.key, NOT_YET[name], one.source)
            elif name.endswith("_transport_options"):
                for option in sorted(one.value.keys() & OPTIONS_WITHOUT_EFFECT.keys()):
                    self._warn(f"{name}[{option!r}]", OPTIONS_WITHOUT_EFFECT[option], one.source)

    def _refuse_if_missed(self, one: Given, given: Mapping[str, Given]) -> None:
        url = WITHOUT_EFFECT[one.name].missed_without
        if url and one.value is not None and url not in given and not self.value_set_for(url):
            raise ImproperlyConfigured(
                f"{one.key!r} is not used any more (given by: {one.source}). "
                f"Set {url!r} instead: scheme://user:password@host:port/name"
            )

    def _warn(self, name: str, why: str, source: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"{name} has no effect: {why} (given by: {source}).", SettingHasNoEffect, stacklevel=4
            )


def _censor(name: str, value: Any) -> Any:
    return MASK if SETTINGS[name].secret and value is not None else mask(value)


class Settings(Configuration):
    """An application's settings, which count their changes: what follows from them is worked out anew."""

    version: int

    def _apply(self, level: Level, given: Mapping[str, Given]) -> None:
        super()._apply(level, given)
        self.__dict__["version"] = self.__dict__.get("version", 0) + 1


def _describe(target: Any) -> str:
    if isinstance(target, Mapping):
        return "a dict"
    name = getattr(target, "__name__", None)
    kind = "module" if hasattr(target, "__spec__") else "object"
    return f"{kind} {name or type(target).__name__}"
