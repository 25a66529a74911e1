"""The standard library is patched for greenlets, and gevent's plugins hear of it where there are any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from celeriac.pools.gevent_patch import has_plugins

PLUGIN = b"[gevent.plugins.monkey.did_patch_all]\nmine = mine:hears\n"
PATCH = "import sys, celeriac.pools.gevent_patch as it; it.patch(); import socket; print(socket.socket.__module__, "


def printed(code: str, folder: Path) -> str:
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def declare(folder: Path, name: str, text: bytes) -> None:
    (folder / name).mkdir()
    (folder / name / "entry_points.txt").write_bytes(text)


def test_without_plugins_nothing_is_read_of_other_distributions(tmp_path: Path):
    assert printed(PATCH + "'importlib.metadata' in sys.modules)", tmp_path) == "gevent._socket3 False"


def test_a_plugin_hears_of_patches(tmp_path: Path):
    declare(tmp_path, "mine-1.0.dist-info", PLUGIN)
    (tmp_path / "mine-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n"
    )
    (tmp_path / "mine.py").write_text("heard = []\nhears = heard.append\n")
    told = printed(PATCH + "[type(event).__name__ for event in sys.modules['mine'].heard])", tmp_path)
    assert told == "gevent._socket3 ['GeventDidPatchAllEvent']"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("mine-1.0.dist-info", PLUGIN, True),
        ("mine.egg-info", PLUGIN, True),
        ("mine-1.0.dist-info", b"[console_scripts]\nmine = mine:main\n", False),
        ("gevent-24.2.1.dist-info", PLUGIN, False),
        ("mine-1.0.data", PLUGIN, False),
    ],
)
def test_plugins_are_found_by_what_distributions_declare(
    tmp_path: Path, name: str, text: bytes, expected: bool
):
    declare(tmp_path, name, text)
    (tmp_path / "old.egg-info").write_text("a file")
    assert has_plugins(["/nowhere", str(tmp_path)]) is expected


def test_what_is_no_folder_may_hold_a_plugin(tmp_path: Path):
    (tmp_path / "all.zip").write_bytes(b"")
    assert has_plugins([str(tmp_path / "all.zip")])
