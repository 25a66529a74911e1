"""The door to results, under Celery's module name. Nothing inside imports it."""

from __future__ import annotations

from celeriac.async_result import AsyncResult, EagerResult, ResultBase
from celeriac.result_sets import GroupResult, ResultSet, result_from_tuple
from celeriac.waiting import (
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    task_join_will_block,
)

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
    "task_join_will_block",
]
