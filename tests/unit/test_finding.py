"""Finding the application that a command line names."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from celeriac.exceptions import ImproperlyConfigured
from celeriac.finding import find_app

MAKE = "from celeriac import Celeriac\n{name} = Celeriac('found', broker='memory://found', set_as_current=False)\n"
_count = itertools.count()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """An empty package of a name of its own, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"found_project_{next(_count)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    return tmp_path / name, name


@pytest.mark.parametrize(
    ("file", "attribute", "given"),
    [
        ("__init__.py", "app", "{}"),
        ("__init__.py", "celeriac", "{}"),
        ("__init__.py", "my_own", "{}"),
        ("celery.py", "app", "{}"),
        ("celery.py", "app", "{}.celery"),
        ("celeriac.py", "app", "{}"),
        ("tasks.py", "app", "{}"),
        ("tasks.py", "other", "{}.tasks"),
        ("tasks.py", "other", "{}.tasks:other"),
        ("tasks.py", "other", "{}.tasks.other"),
        ("tasks.py", "app", "{}:tasks.app"),
    ],
)
def test_an_application_is_found(project: tuple[Path, str], file: str, attribute: str, given: str) -> None:
    package, name = project
    (package / file).write_text(MAKE.format(name=attribute))
    if given == "{}:tasks.app":
        (package / "__init__.py").write_text(f"import {name}.tasks\n")
    assert find_app(given.format(name)).main == "found"


def test_a_factory_is_called(project: tuple[Path, str]) -> None:
    package, name = project
    (package / "__init__.py").write_text(
        "from celeriac import Celeriac\ndef make():\n"
        "    return Celeriac('made', broker='memory://', set_as_current=False)\n"
    )
    assert find_app(f"{name}:make").main == "made"


@pytest.mark.parametrize("given", ["{}", "{}:nothing", "{}.nothing", "no_such_module_at_all", "no_such:app"])
def test_what_was_tried_is_told(project: tuple[Path, str], given: str) -> None:
    _, name = project
    with pytest.raises(ImproperlyConfigured, match=r"no application was found under .* Looked for: "):
        find_app(given.format(name))


def test_an_error_inside_the_module_is_not_hidden(project: tuple[Path, str]) -> None:
    package, name = project
    (package / "celery.py").write_text("import no_such_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        find_app(name)
