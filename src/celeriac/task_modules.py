"""Task modules that are known by name and imported when a first message for one of their tasks arrives.

Which tasks a module declares is read off its source, without running it: functions under a decorator called `task` or
`shared_task`, by their `name=`, else by module and function. Where that cannot be seen (a name that is computed, a
class that is registered, a module without source), the module is *uncertain*: it is imported when a task is asked
for that no other module declares.
"""

from __future__ import annotations

import ast
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from celeriac import clock, context, importing, plugins
from celeriac.events import BUS, ChildImported, ChildImportFailed
from celeriac.exceptions import ImproperlyConfigured

#: How long (seconds) a module that could not be imported is left alone.
_PAUSE: Final = 10.0
_DECORATORS: Final = ("task", "shared_task")
_COMPUTED: Final = "*"


class ModuleBroken(ImproperlyConfigured):
    """The module that declares a task cannot be imported; the text says why."""


class Declared(NamedTuple):
    """What a module's source says of its tasks. `is_certain`: there are no others. `is_wanted`: it listens to signals,
    so it is imported at the start."""

    names: frozenset[str]
    is_certain: bool
    is_wanted: bool = False


def scan(module: str, source: str | None) -> Declared:
    """The tasks that this source declares."""
    if source is None:
        return Declared(frozenset(), False)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        # Its tasks cannot be known; importing it tells what is wrong.
        return Declared(frozenset(), False)
    names: set[str] = set()
    is_certain, is_wanted = True, False
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                given = _name_given(decorator)
                if given is None:
                    continue
                if given == _COMPUTED or (given == "" and id(node) not in top):
                    is_certain = False
                else:
                    names.add(given or f"{module}.{node.name}")
        elif isinstance(node, ast.Call) and _last(node.func) == "register_task":
            is_certain = False
        elif isinstance(node, ast.Call) and _last(node.func) in _DECORATORS and node.args:
            is_certain = False
        elif isinstance(node, ast.ClassDef) and any(_last(base).endswith("Task") for base in node.bases):
            is_certain = False
        elif isinstance(node, ast.Attribute | ast.alias | ast.ImportFrom):
            is_wanted = is_wanted or _is_of_signals(node)
    return Declared(frozenset(names), is_certain, is_wanted)


def _is_of_signals(node: ast.Attribute | ast.alias | ast.ImportFrom) -> bool:
    """Whether it speaks of the signals, or of those of an application (`app.on_after_configure.connect`)."""
    if isinstance(node, ast.Attribute):
        return node.attr.startswith("on_after_")
    name = (node.module or "") if isinstance(node, ast.ImportFrom) else node.name
    return name.rpartition(".")[2] == "signals"


def _name_given(decorator: ast.expr) -> str | None:
    """The name that a task decorator gives: "" for none, `_COMPUTED` for one not to be read; None for others."""
    keywords: list[ast.keyword] = []
    if isinstance(decorator, ast.Call):
        keywords, decorator = decorator.keywords, decorator.func
    if _last(decorator) not in _DECORATORS:
        return None
    for keyword in keywords:
        if keyword.arg in ("name", None):
            constant = keyword.value if keyword.arg and isinstance(keyword.value, ast.Constant) else None
            return _COMPUTED if constant is None else str(constant.value)
    return ""


def _last(node: ast.expr) -> str:
    """The last name of a dotted expression."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def find(app: Any, extra: Iterable[str]) -> TaskModules:
    """The task modules of an application: of its settings, `extra` ones, and what `autodiscover_tasks` names.

    Those that listen to signals are imported at once.

    Raises: ImportError, and whatever these raise.
    """
    with context.as_current(app):
        modules = TaskModules(app, names_of(app, extra))
        for module in modules.wanted():
            plugins.load(module)
        return modules


def names_of(app: Any, extra: Iterable[str]) -> list[str]:
    """The names of an application's task modules. Packages that `autodiscover_tasks` names are imported, not more."""
    related = [importing.related_module(package, name) for package, name in app.discovered()]
    return list(dict.fromkeys((*app.conf.imports, *app.conf.include, *extra, *filter(None, related))))


class TaskModules:
    """The modules of one application that have not been imported, and how to find a task in them."""

    def __init__(self, app: Any, modules: Iterable[str]) -> None:
        """Raises: ModuleNotFoundError: there is no module of one of these names."""
        self._app = app
        #: Told of every module that is imported; a child tells its supervisor.
        self.on_import: Callable[[str], None] | None = None
        #: Guards the two dicts, and makes imports wait for each other.
        self._lock = threading.RLock()
        self._waiting: dict[str, Declared] = {}
        self._broken: dict[str, tuple[float, str]] = {}
        kind: Any = app.__class__
        base: Any = plugins.load("celeriac.app:Celeriac")
        has_own_names = kind.gen_task_name is not base.gen_task_name
        for module in modules:
            found = scan(module, plugins.source_of(module))
            self._waiting[module] = found._replace(is_certain=found.is_certain and not has_own_names)

    def names(self) -> list[str]:
        """The names of all tasks that are known without importing anything more."""
        return sorted({name for found in self._waiting.values() for name in found.names})

    def wanted(self) -> list[str]:
        """The modules that have to be there from the start, which are no longer waited for."""
        wanted = [module for module, found in self._waiting.items() if found.is_wanted]
        for module in wanted:
            del self._waiting[module]
        return wanted

    def task(self, name: str) -> Any:
        """The task of that name, after importing what declares it; None where nothing that can be imported does.

        Raises: ModuleBroken: what declares it cannot be imported.
        """
        with self._lock:
            for module, found in list(self._candidates(name)):
                try:
                    self.load(module)
                except ModuleBroken:
                    if name in found.names or name.startswith(f"{module}."):
                        raise
                    # Another may declare it, here or in another worker.
                    continue
                if (task := self._app.tasks.get(name)) is not None:
                    return task
            return self._app.tasks.get(name)

    def broken(self) -> list[str]:
        """The modules whose last import failed."""
        return sorted(self._broken)

    def _candidates(self, name: str) -> Iterator[tuple[str, Declared]]:
        """Modules that declare the task; then those that may."""
        for module, found in self._waiting.items():
            if name in found.names:
                yield module, found
        for module, found in self._waiting.items():
            if not found.is_certain and name not in found.names:
                yield module, found

    def load(self, module: str) -> None:
        """Import a module, unless that was done. Raises: ModuleBroken."""
        with self._lock:
            if module not in self._waiting:
                return
            failed_at, text = self._broken.get(module, (0.0, ""))
            if text and clock.monotonic() - failed_at < _PAUSE:
                raise ModuleBroken(text)
            began = clock.monotonic()
            before = set(self._app.tasks)
            try:
                with context.as_current(self._app):
                    plugins.load(module)
            except BaseException as exc:
                text = f"the module {module!r} cannot be imported: {type(exc).__name__}: {exc}"
                self._broken[module] = (clock.monotonic(), text)
                self._forget_halves(before)
                BUS.emit(ChildImportFailed(module, traceback.format_exc()))
                raise ModuleBroken(text) from exc
            del self._waiting[module]
            self._broken.pop(module, None)
            BUS.emit(ChildImported(module, clock.monotonic() - began))
            if self.on_import is not None:
                self.on_import(module)

    def _forget_halves(self, before: set[str]) -> None:
        """Take out the tasks of modules whose import did not end: they would run without half of their module."""
        tasks = self._app.tasks
        for name in set(tasks) - before:
            if tasks[name].__module__ not in sys.modules:
                tasks.unregister(name)
