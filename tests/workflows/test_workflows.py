"""The short form: some workflows on each broker. `make workflows` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.__main__ import Options, run

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(180)]


@pytest.mark.usefixtures("redis_server", "postgres_url")
@pytest.mark.parametrize("broker", ["redis", "sqlite", "postgres"])
def test_every_workflow_ends_once_and_leaves_nothing(broker: str, tmp_path: Path) -> None:
    troubles = run(Options(workflows=500, seed=7, broker=broker), tmp_path)
    assert not troubles, "\n".join(troubles)
