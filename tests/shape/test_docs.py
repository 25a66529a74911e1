"""Pages that are made from the code are as the code is, and what pages point to exists."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from celeriac import settings, states
from celeriac.cli import COMMANDS
from tests.shape.source import ROOT

DOCS = ROOT / "docs"
GENERATORS = sorted(DOCS.glob("generate_*.py"))
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
#: A test that a page names: `tests/worker/test_stop.py::test_an_idle_worker_stops_at_once`.
TEST = re.compile(r"`((?:tests|src)/[\w/]+\.py)::(?:\w+::)?(test_\w+)`")
FILE = re.compile(r"`((?:src/celeriac|tests|docs|benchmarks|examples)/[\w./-]+\.\w+)`")


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def generated(name: str) -> dict[str, Any]:
    return runpy.run_path(str(DOCS / f"generate_{name}.py"))


@pytest.mark.parametrize("script", GENERATORS, ids=lambda script: script.stem)
def test_a_generated_page_is_as_the_code_is(script: Path) -> None:
    module = runpy.run_path(str(script))
    assert module["PAGE"].read_text(encoding="utf-8") == module["page"](), "run: make docs"


def test_every_setting_is_described() -> None:
    page = text_of("reference/settings.md")
    assert [name for name in settings.SETTINGS if f"### `{name}`\n" not in page] == []


def test_every_command_is_described() -> None:
    page = text_of("reference/command-line.md")
    assert [name for name in COMMANDS if f"## `celeriac {name}`\n" not in page] == []


@pytest.mark.parametrize("name", ["events", "errors"])
def test_every_class_is_described_and_says_what_it_is(name: str) -> None:
    page, kinds = text_of(f"reference/{name}.md"), generated(name)["kinds"]()
    assert len(kinds) > 20
    assert [kind.__name__ for kind in kinds if f"### `{kind.__name__}`\n" not in page] == []
    assert [kind.__name__ for kind in kinds if "__doc__" not in vars(kind) or not kind.__doc__] == []


def test_every_state_is_described() -> None:
    known = {value for name, value in vars(states).items() if name.isupper() and isinstance(value, str)}
    assert generated("states")["MEANINGS"].keys() == known


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in FILE.findall(text) if not (ROOT / name).exists()] == []
    assert [
        f"{file}::{test}" for file, test in TEST.findall(text) if test not in known_tests(ROOT / file)
    ] == []


def known_tests(path: Path) -> set[str]:
    if not path.exists():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_what_keeps_a_promise_is_where_the_table_says() -> None:
    """Behind a link to a file stand the names in it that keep the promise, so that a reader finds the lines at once."""
    table = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    found = re.findall(r"\]\(\.\./(src/[\w./]+)\) \((`[^)]*`)\)", table)
    assert len(found) > 20
    for path, names in found:
        code = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            assert re.search(rf"(def|class|function) {name.rpartition('.')[2]}\b", code), (path, name)
