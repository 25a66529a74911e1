"""The short form: some transactions, and one crash of the server. `make transactions` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import PrivatePostgres
from tests.transactions.__main__ import Options, run

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(180)]


def test_exactly_the_tasks_of_committed_transactions_run(
    private_postgres: PrivatePostgres, tmp_path: Path
) -> None:
    told, troubles = run(Options(transactions=400, seed=7, crashes=1), tmp_path, private_postgres)
    assert not troubles, "\n".join([told, *troubles])
