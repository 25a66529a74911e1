"""Celeriac: a distributed task queue. Users of Celery know its names: `from celeriac import Celery`.

The names are loaded when they are first asked for. The supervisor of a worker, which runs no user code and has a
budget of a few megabytes, passes through this module and asks for none of them
(docs/design/0004-public-names-on-demand.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from celeriac import plugins

if TYPE_CHECKING:
    from celeriac.app import Celeriac, Celery
    from celeriac.compat import current_app, current_task
    from celeriac.declaring import shared_task
    from celeriac.message import new_id as uuid
    from celeriac.queues import Broadcast, Exchange, Queue
    from celeriac.task import Task
    from celeriac.workflow.chain import chain
    from celeriac.workflow.chord import chord
    from celeriac.workflow.group import group
    from celeriac.workflow.mapping import chunks, xmap, xstarmap
    from celeriac.workflow.signature import Signature, maybe_signature, signature

__version__ = "0.1.0"

__all__ = [
    "Broadcast",
    "Celeriac",
    "Celery",
    "Exchange",
    "Queue",
    "Signature",
    "Task",
    "__version__",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "uuid",
    "xmap",
    "xstarmap",
]

#: Public name -> where it lives. `tests/shape` checks that this table, `__all__` and the imports above agree.
_NAMES: Final = {
    "Celeriac": "celeriac.app:Celeriac",
    "Celery": "celeriac.app:Celery",
    "Broadcast": "celeriac.queues:Broadcast",
    "Exchange": "celeriac.queues:Exchange",
    "Queue": "celeriac.queues:Queue",
    "Signature": "celeriac.workflow.signature:Signature",
    "Task": "celeriac.task:Task",
    "chain": "celeriac.workflow.chain:chain",
    "chord": "celeriac.workflow.chord:chord",
    "chunks": "celeriac.workflow.mapping:chunks",
    "current_app": "celeriac.compat:current_app",
    "current_task": "celeriac.compat:current_task",
    "group": "celeriac.workflow.group:group",
    "maybe_signature": "celeriac.workflow.signature:maybe_signature",
    "shared_task": "celeriac.declaring:shared_task",
    "signature": "celeriac.workflow.signature:signature",
    "uuid": "celeriac.message:new_id",
    "xmap": "celeriac.workflow.mapping:xmap",
    "xstarmap": "celeriac.workflow.mapping:xstarmap",
}


def __getattr__(name: str) -> Any:
    path = _NAMES.get(name)
    if path is None:
        # `from celeriac import clock` asks here before it imports the module, in every process.
        hint = "" if plugins.is_module(f"{__name__}.{name}") else plugins.nearest(name, __all__)
        raise AttributeError(f"module 'celeriac' has no attribute {name!r}.{hint}")
    value = globals()[name] = plugins.load(path)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
