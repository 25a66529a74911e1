"""Tasks for tests: `ping`."""

from __future__ import annotations

from celeriac.declaring import shared_task


@shared_task(name="celery.ping", ignore_result=False)
def ping() -> str:
    """Answer: somebody takes tasks."""
    return "pong"
