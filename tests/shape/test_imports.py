"""Who imports whom: no cycle, no hidden import, and what each kind of process loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

from tests.shape.source import at_run_time, functions, imports, modules, shown, tree

#: What a web process must not pay for.
BANNED = {
    "asyncio", "multiprocessing", "concurrent.futures", "sqlite3", "http", "importlib.metadata", "argparse", "ssl",
    "hiredis", "redis", "rich", "yaml", "subprocess", "pickle", "random", "hashlib", "difflib",
}  # fmt: skip
#: Plug-ins are loaded here, by name; an error message pays for its own suggestion.
DYNAMIC = {"celeriac.plugins"}


def test_there_is_no_import_cycle() -> None:
    graph = {name: sorted(imports(path) - {name, "celeriac"}) for name, path in modules().items()}
    done: set[str] = set()
    cycles: list[list[str]] = []

    def visit(name: str, road: list[str]) -> None:
        if name in road:
            cycles.append([*road[road.index(name) :], name])
        elif name not in done:
            for other in graph[name]:
                visit(other, [*road, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    assert cycles == []


def test_imports_stand_at_the_top_of_their_module() -> None:
    hidden = [
        shown(path, node)
        for name, path in modules().items()
        if name not in DYNAMIC
        for function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


def test_there_are_no_relative_and_no_star_imports() -> None:
    found = [
        shown(path, node)
        for path in modules().values()
        for node in at_run_time(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.level or node.names[0].name == "*")
    ]
    assert found == []


def loaded_by(statement: str) -> tuple[set[str], float]:
    """The modules that a statement loads in a fresh interpreter, and how long it takes in seconds."""
    program = (
        "import sys, time, json; before = set(sys.modules); started = time.perf_counter()\n"
        f"{statement}\n"
        "took = time.perf_counter() - started\n"
        "print(json.dumps([sorted(set(sys.modules) - before), took]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    names, took = json.loads(done.stdout)
    return set(names), took


def own_cost(names: set[str]) -> set[str]:
    # msgspec takes typing_extensions along where some other package has installed it.
    return names - {"typing_extensions"}


@pytest.mark.parametrize("statement", ["import celeriac", "from celeriac import Celeriac, shared_task"])
def test_a_web_process_loads_little(statement: str) -> None:
    names, took = loaded_by(statement)
    assert names & BANNED == set()
    assert len(own_cost(names)) <= 130
    if took > 0.060:  # a clock on a shared machine proves nothing: told, not asserted
        print(f"{statement} took {took * 1000:.0f} ms")


def test_the_supervisor_loads_no_application_and_no_driver_of_another_broker() -> None:
    names, _ = loaded_by("import celeriac.supervisor.__main__, celeriac.brokers.redis")
    application = {
        "celeriac.app",
        "celeriac.task",
        "celeriac.result",
        "celeriac.outcome",
        "celeriac.worker.main",
    }
    others = {
        "asyncio",
        "sqlite3",
        "redis",
        "rich",
        "multiprocessing",
        "concurrent.futures",
        "subprocess",
        "ssl",
    }
    assert names & (application | others) == set()
