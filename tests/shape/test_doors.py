"""Doors have Celery's names and nothing of their own; rows of tables are in order and complete."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from celeriac.brokers import BROKERS
from celeriac.cli import COMMANDS
from celeriac.pools import POOLS
from celeriac.results import RESULTS
from tests.shape.source import imports, modules, tree


def doors() -> dict[str, Path]:
    """The modules whose docstring says that they are one."""
    return {
        name: path for name, path in modules().items() if " door " in (ast.get_docstring(tree(path)) or "")
    }


def test_there_are_doors() -> None:
    assert {"celeriac.canvas", "celeriac.result", "celeriac.utils.log"} <= doors().keys()


@pytest.mark.parametrize("name", sorted(doors()))
def test_a_door_shows_all_that_it_brings_and_defines_nothing(name: str) -> None:
    body = tree(doors()[name]).body
    brought = {
        alias.asname or alias.name
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    assert not [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert brought == set(importlib.import_module(name).__all__)


def test_nothing_inside_goes_through_a_door() -> None:
    through = {
        name: sorted(doors().keys() & imports(path))
        for name, path in modules().items()
        if name not in doors()
    }
    assert {name: found for name, found in through.items() if found} == {}


@pytest.mark.parametrize("table", [BROKERS, RESULTS, POOLS, COMMANDS])
def test_the_rows_of_a_table_are_sorted(table: Mapping[str, Any]) -> None:
    assert list(table) == sorted(table)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_can_be_asked_and_run(name: str) -> None:
    module = importlib.import_module(COMMANDS[name].module)
    assert callable(module.add_arguments) and callable(module.run)
    assert COMMANDS[name].help and module.__doc__
