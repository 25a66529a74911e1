"""Plug-ins are loaded by name, and a wrong name is told with the nearest right one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from celeriac import plugins
from celeriac.brokers import BROKERS
from celeriac.brokers import connect as connect_broker
from celeriac.exceptions import ImproperlyConfigured, UnknownScheme
from celeriac.results import RESULTS
from celeriac.results import connect as connect_results


def test_an_object_is_loaded_by_module_and_attribute() -> None:
    assert plugins.load("pathlib:Path") is Path
    assert plugins.load("pathlib:Path.exists") is Path.exists
    assert plugins.load("pathlib") is sys.modules["pathlib"]


def test_a_missing_attribute_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="'pathlib' has no 'Paht'"):
        plugins.load("pathlib:Paht")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        plugins.load("no_such_module:x")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("rediss", " Did you mean 'redis'?"), ("reids", " Did you mean 'redis'?"), ("kafka", "")],
)
def test_the_nearest_name_is_proposed(name: str, hint: str) -> None:
    assert plugins.nearest(name, ["redis", "sqlite"]) == hint


def test_an_unknown_plug_in_is_told_with_those_that_are_known() -> None:
    table = {"redis": "pathlib:Path", "sqlite": "pathlib:PurePath"}
    assert plugins.find("broker", "redis", table) is Path
    with pytest.raises(
        UnknownScheme, match=r"no broker is called 'sqlit'\. Did you mean 'sqlite'\?.*redis, sqlite"
    ):
        plugins.find("broker", "sqlit", table)


def test_a_driver_that_is_not_installed_is_told_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_adapter.py").write_text("import no_such_driver\nclass Broker: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImproperlyConfigured, match=r"needs the package 'no_such_driver'.*celeriac\[redis\]"):
        plugins.find("broker", "rediss", {"rediss": "needy_adapter:Broker"})


def test_a_missing_module_of_our_own_is_not_taken_for_a_driver() -> None:
    with pytest.raises(ModuleNotFoundError):
        plugins.find("broker", "x", {"x": "celeriac.no_such_module:Broker"})


def test_third_parties_add_plug_ins_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "nats_broker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nats-broker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[celeriac.brokers]\nnats = pathlib:Path\n[celeriac.result_stores]\nnats = pathlib:PurePath\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.find("broker", "nats", {}) is Path
    assert plugins.find("result store", "nats", {}) is not Path


@pytest.mark.parametrize("scheme", sorted(BROKERS))
def test_every_row_of_the_broker_table_loads(scheme: str) -> None:
    assert isinstance(plugins.load(BROKERS[scheme]), type)


@pytest.mark.parametrize("scheme", sorted(RESULTS))
def test_every_row_of_the_result_store_table_loads(scheme: str) -> None:
    assert isinstance(plugins.load(RESULTS[scheme]), type)


def test_a_misspelt_scheme_names_the_nearest_one() -> None:
    with pytest.raises(UnknownScheme, match="Did you mean 'redis'"):
        connect_broker("reddis://localhost")
    with pytest.raises(UnknownScheme, match="Did you mean 'sqlite'"):
        connect_results("sqllite:///file")
