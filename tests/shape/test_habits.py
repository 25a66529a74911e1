"""What the house refuses, looked for."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

import celeriac
from celeriac import brokers, plugins, pools, results
from celeriac.brokers.contract import Broker
from celeriac.pools.contract import Pool
from celeriac.results.contract import ResultStore
from tests.shape.source import ROOT, at_run_time, modules, shown, tree

#: Where everything may be caught: around user code, and where a loop must go on. A new place needs a reason here.
BROAD = {
    "celeriac.outcome": "user code: tasks, hooks, the decision to retry, texts of exceptions",
    "celeriac.worker.executor": "follow-ups pass through user code",
    "celeriac.workflow.follow": "error callbacks are user code",
    "celeriac.stored": "constructors and texts of users' exceptions",
    "celeriac.codecs": "parsers raise errors of every class; pickling runs user code",
    "celeriac.aio_sending": "carries exceptions to the coroutine that waits",
    "celeriac.aio_waiting": "carries exceptions to the coroutine that waits",
    "celeriac.task_modules": "the import of a task module",
    "celeriac.loops": "carries an exception to the thread that waits for it",
    "celeriac.dispatch": "receivers of signals are user code",
    "celeriac.events": "a listener must not break the flow",
    "celeriac.worker.inspection": "user code: attributes of tasks, texts of settings",
    "celeriac.worker.template": "the application's import, and the end of a child",
    "celeriac.supervisor.leases": "whatever fails, the children's leases must be kept",
    "celeriac.cli.opening": "the application's import",
    "celeriac.cli.imports": "the import of each task module",
    "celeriac.pools.asyncio": "a fault in a run ends the process",
    "celeriac.pools.gevent": "a fault in a slot ends the process",
    "celeriac.pools.gevent_coroutines": "carries exceptions between a coroutine and the greenlet that waits for it",
    "celeriac.pools.threads": "a fault in a slot ends the process",
    "celeriac.pools.told": "hands exceptions of the loop to the coroutine that they are for",
    "celeriac.logs": "texts of users' values",
    "celeriac.log_output": "texts of users' exceptions; logging's own rule that a line breaks nothing",
}
#: Registries that a process fills at its start, and constants that their type calls mutable.
REGISTRIES = {
    "celeriac.events": {"BUS"},
    "celeriac.context": {"APPS"},
    "celeriac.loops": {"_LOOPS"},
    "celeriac.pools.gevent_coroutines": {"_THREADS"},
}


def is_broad(handler: ast.ExceptHandler) -> bool:
    names = (
        [node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)] if handler.type else [""]
    )
    return bool({"Exception", "BaseException", ""} & set(names))


def is_passed_on(handler: ast.ExceptHandler) -> bool:
    """Cleanup that raises the same exception again."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_everything_is_caught_in_few_places_only() -> None:
    found = {
        name
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and is_broad(node) and not is_passed_on(node)
    }
    assert found <= BROAD.keys()


def test_no_exception_is_swallowed() -> None:
    found = [
        shown(path, node)
        for path in modules().values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(one, ast.Pass) for one in node.body)
    ]
    assert found == []


def test_the_root_has_exactly_its_public_names() -> None:
    names = celeriac._NAMES  # pyright: ignore[reportPrivateUsage]
    assert celeriac.__all__ == sorted(celeriac.__all__)
    assert set(celeriac.__all__) == {*names, "__version__"}
    checked = {
        alias.asname or alias.name
        for node in ast.walk(tree(modules()["celeriac"]))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celeriac.")
        for alias in node.names
    }
    assert checked == names.keys()
    for name, path in names.items():
        assert getattr(celeriac, name) is plugins.load(path)


@pytest.mark.parametrize("name", sorted(modules()))
def test_all_is_sorted_and_true(name: str) -> None:
    found = [node for node in tree(modules()[name]).body
             if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"]  # fmt: skip
    for node in found:
        names = ast.literal_eval(node.value)
        assert names == sorted(names)
        module = importlib.import_module(name)
        assert [one for one in names if not hasattr(module, one)] == []


def test_every_row_of_the_tables_satisfies_its_protocol() -> None:
    for table, protocol in ((brokers.BROKERS, Broker), (results.RESULTS, ResultStore)):
        for path in table.values():
            missing = {verb for verb in vars(protocol) if not verb.startswith("_")} - set(
                dir(plugins.load(path))
            )
            assert missing == set(), path
    for row in pools.POOLS.values():
        assert isinstance(plugins.load(row.path)(1), Pool)


def test_no_module_keeps_state() -> None:
    """Names in capitals are constants, by convention and by `Final`; anything else at the top of a module is state."""
    found = []
    for name, path in modules().items():
        for node in tree(path).body:
            value = getattr(node, "value", None)
            if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(
                value, ast.List | ast.Dict | ast.Set
            ):
                continue
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            written = getattr(target, "id", "")
            if not (written.isupper() or written.startswith("__") or written in REGISTRIES.get(name, ())):
                found.append(shown(path, node) + " " + written)
    assert found == []


def test_no_function_changes_a_global() -> None:
    found = [
        shown(path, node) for path in modules().values() for node in at_run_time(tree(path))
        if isinstance(node, ast.Global)
    ]  # fmt: skip
    assert found == []


def test_tests_use_no_mocks() -> None:
    words = re.compile(r"unittest\.mock|\bMagicMock\b|\bmocker\b")
    found = [
        str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("*.py"))
        if path.name != "test_habits.py" and words.search(path.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert found == []


def test_unit_tests_do_not_sleep() -> None:
    found = [
        str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "unit").rglob("*.py"))
        if re.search(r"\btime\.sleep\(|\bclock\.sleep\(", path.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert found == []


def test_a_todo_names_its_issue() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in modules().values()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX)\b(?!.*#\d)", line)
    ]
    assert found == []
