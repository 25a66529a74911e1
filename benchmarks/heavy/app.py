"""The application, for Celery or Celeriac: `HEAVY_SYSTEM` says which, `HEAVY_MODULES` what it includes."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from heavy import MODULES, task_name
from tally import Tally

app: Any = import_module(os.environ["HEAVY_SYSTEM"]).Celery(
    "heavy",
    broker=os.environ["BENCH_REDIS"],
    include=os.environ["HEAVY_MODULES"].split(","),
    task_ignore_result=True,
    task_routes={task_name(queue): {"queue": queue} for queue in MODULES},
)
tally = Tally()
