"""The names that Celery's users import are where they look for them, with `celeriac` for `celery`."""

from __future__ import annotations

import importlib

import pytest

NAMES = {
    "celeriac": "Celery Celeriac Signature Task chain current_app current_task group maybe_signature "
    "shared_task signature uuid",
    "celeriac.app": "Celery Celeriac",
    "celeriac.canvas": "Signature chain group maybe_signature signature",
    "celeriac.exceptions": "Ignore ImproperlyConfigured MaxRetriesExceededError NotRegistered OperationalError "
    "Reject Retry SoftTimeLimitExceeded TaskRevokedError TimeLimitExceeded TimeoutError WorkerLostError",
    "celeriac.result": "AsyncResult EagerResult GroupResult ResultSet allow_join_result result_from_tuple",
    "celeriac.states": "FAILURE PENDING RECEIVED RETRY REVOKED STARTED SUCCESS READY_STATES UNREADY_STATES",
    "celeriac.utils.log": "get_task_logger",
    "celeriac.utils.serialization": "UnpickleableExceptionWrapper",
}


@pytest.mark.parametrize("module", NAMES)
def test_the_names_are_there(module: str):
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []
