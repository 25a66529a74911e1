"""The short form: a minute of chaos on each broker that has workers on it. `make chaos` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos.__main__ import Options

#: One at a time: it needs the machine for itself to get far.
pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(180)]


@pytest.mark.usefixtures("redis_server")
def test_nothing_is_lost_or_doubled_on_redis(tmp_path: Path) -> None:
    options = Options(seconds=20.0, seed=1, tasks=2400, kills=36, restarts=2, drain=60.0)
    verdict = chaos.run(options, tmp_path)
    assert verdict.is_good, chaos.report(options, verdict, options.seconds)


def test_nothing_is_lost_or_doubled_on_sqlite(tmp_path: Path) -> None:
    options = Options(seconds=10.0, seed=1, tasks=800, kills=16, restarts=0, broker="sqlite", drain=60.0)
    verdict = chaos.run(options, tmp_path)
    assert verdict.is_good, chaos.report(options, verdict, options.seconds)


@pytest.mark.usefixtures("postgres_url")
def test_nothing_is_lost_or_doubled_on_postgresql(tmp_path: Path) -> None:
    options = Options(seconds=15.0, seed=1, tasks=1800, kills=27, restarts=2, broker="postgres", drain=60.0)
    verdict = chaos.run(options, tmp_path)
    assert verdict.is_good, chaos.report(options, verdict, options.seconds)


@pytest.mark.private_rabbitmq
@pytest.mark.timeout(400)
def test_nothing_is_lost_or_doubled_on_rabbitmq(tmp_path: Path) -> None:
    options = Options(seconds=15.0, seed=1, tasks=900, kills=24, restarts=2, broker="rabbitmq", drain=90.0)
    verdict = chaos.run(options, tmp_path)
    assert verdict.is_good, chaos.report(options, verdict, options.seconds)
