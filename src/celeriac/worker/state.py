"""Celery's door to what a worker in this process knows: that of `start_worker`; all is empty where none runs here.

Tests look at it. The processes of `celeriac worker` are asked with `app.control.inspect()`. Tasks are counted when they
have run; `successful_requests` has the ids of the last thousand whose results are stored; `revoked` what this
worker was told since it runs: what else is revoked is known to the broker.
"""

from __future__ import annotations

from celeriac.worker.here import (
    active_requests,
    all_total_count,
    requests,
    reserved_requests,
    revoked,
    revoked_stamps,
    successful_requests,
    total_count,
)

__all__ = [
    "active_requests",
    "all_total_count",
    "requests",
    "reserved_requests",
    "revoked",
    "revoked_stamps",
    "successful_requests",
    "total_count",
]
