"""What few programs ask an application or a task for, and what Celery's have and these have not.

Loaded when one is asked for a name that it does not have.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC
from functools import partial
from typing import Any, Final

from celeriac import plugins
from celeriac.dispatch import Signal

#: The signals of one application, and why one is never sent.
_SIGNALS: Final[Mapping[str, str]] = {
    "on_after_configure": "",
    "on_after_finalize": "",
    "on_after_fork": "connect to celeriac.signals.worker_process_init",
    "on_configure": "connect to on_after_configure",
}
_COMMANDS: Final = "it is a command: `celeriac -A your.app {}`"
_NO_CONNECTIONS: Final = "there are no connections to hold: tasks, `app.broker` and `app.backend` open theirs"
_NO_LOADER: Final = "there are no loaders: use config_from_object, and autodiscover_tasks for modules"
_NO_CLASSES: Final = "the classes of an application cannot be replaced"

#: Celery's names that are not here, and what to use instead.
ELSEWHERE: Final[Mapping[str, str]] = {
    "Beat": _COMMANDS.format("beat"),
    "IS_WINDOWS": "use sys.platform",
    "IS_macOS": "use sys.platform",
    "Pickler": "an application is not pickled: tasks find it by their name",
    "SYSTEM": "use platform.system()",
    "WorkController": _COMMANDS.format("worker"),
    "Worker": _COMMANDS.format("worker"),
    "amqp": "queues are names: see the settings task_queues and task_routes",
    "amqp_cls": _NO_CLASSES,
    "annotations": "read app.conf.task_annotations",
    "backend_cls": "set result_backend",
    "broker_connection": _NO_CONNECTIONS,
    "builtin_fixups": "there are no fixups",
    "connection": _NO_CONNECTIONS,
    "connection_for_read": _NO_CONNECTIONS,
    "connection_for_write": _NO_CONNECTIONS,
    "connection_or_acquire": _NO_CONNECTIONS,
    "control_cls": _NO_CLASSES,
    "create_task_cls": "subclass app.Task, or give the application task_cls=",
    "default_connection": _NO_CONNECTIONS,
    "default_producer": _NO_CONNECTIONS,
    "events": "connect to celeriac.signals",
    "events_cls": _NO_CLASSES,
    "loader": _NO_LOADER,
    "loader_cls": _NO_LOADER,
    "log": "use celeriac.utils.log, and the signals setup_logging and after_setup_logger",
    "log_cls": _NO_CLASSES,
    "on_init": "override __init__",
    "pool": _NO_CONNECTIONS,
    "prepare_config": "override config_from_object",
    "producer_or_acquire": _NO_CONNECTIONS,
    "producer_pool": _NO_CONNECTIONS,
    "registry_cls": _NO_CLASSES,
    "select_queues": "start the worker with -Q",
    "setup_security": "messages are not signed in this version",
    "start": _COMMANDS.format("COMMAND"),
    "steps": "there are no bootsteps: connect to the worker's signals",
    "subclass_with_self": "subclass with a class attribute `app`",
    "task_cls": "read app.Task",
    "type_checker": "set typing=False for a task whose arguments are not to be checked",
    "user_options": "options of your own belong into the environment or the settings",
    "worker_main": _COMMANDS.format("worker"),
}

#: The same for tasks.
TASKS_ELSEWHERE: Final[Mapping[str, str]] = {
    "Request": "there are no request classes: override the hooks",
    "Strategy": "there are no strategies: override the hooks",
    "add_around": "override the method in a class of your own",
    "add_trail": "tasks that are sent in a run are its children by themselves",
    "annotate": "set task_annotations",
    "from_config": "what a task does not set follows the settings",
    "request_stack": "use self.request",
    "resultrepr_maxsize": "results are not printed into events",
    "send_event": "tell how far a run is with self.progress or self.update_state",
    "send_events": "events are emitted for every task",
    "start_strategy": "there are no strategies: override the hooks",
}


def add_periodic_task(
    app: Any,
    schedule: Any,
    sig: Any,
    args: Any = (),
    kwargs: Any = (),
    name: str | None = None,
    **options: Any,
) -> str:
    """Enter a signature into `beat_schedule`, to be sent by that schedule. Returns the name of its entry."""
    signature = app.signature(sig) if isinstance(sig, str) else sig
    signature = signature.clone(args or (), dict(kwargs)) if args or kwargs else signature
    entry = {
        "task": signature.task, "schedule": schedule, "args": signature.args, "kwargs": signature.kwargs,
        "options": {**signature.options, **options},
    }  # fmt: skip
    name = name or repr(signature)
    app.conf.beat_schedule = {**(app.conf.beat_schedule or {}), name: entry}
    return name


def uses_utc_timezone(app: Any) -> bool:
    """Whether naive times are in UTC."""
    return bool(app.timezone == UTC)


def either(app: Any, default_key: str, *defaults: Any) -> Any:
    """The first value that is not None, else the setting of that name."""
    return next((value for value in defaults if value is not None), app.conf[default_key])


def bugreport(app: Any) -> str:
    """Versions, platform and settings, as `celeriac report` shows them. Passwords are masked."""
    text: str = plugins.load("celeriac.control.reporting:text")(app)
    return text


_METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    "add_periodic_task": add_periodic_task,
    "bugreport": bugreport,
    "either": either,
    "uses_utc_timezone": uses_utc_timezone,
}


def attribute(app: Any, name: str) -> Any:
    """That attribute of the application. Raises: AttributeError: there is none."""
    if (method := _METHODS.get(name)) is not None:
        return partial(method, app)
    if name in _SIGNALS:
        return app.__dict__.setdefault(name, Signal(name, ["source"], never=_SIGNALS[name]))
    if name == "oid":
        return app.__dict__.setdefault(name, os.urandom(16).hex())
    if name == "thread_oid":
        return f"{attribute(app, 'oid')}-{threading.get_ident()}"
    if (instead := ELSEWHERE.get(name)) is not None:
        raise AttributeError(f"an application of Celeriac has no {name!r}: {instead}")
    known = () if name.startswith("_") else [word for word in dir(app) if not word.startswith("_")]
    raise AttributeError(
        f"{type(app).__name__!r} object has no attribute {name!r}.{plugins.nearest(name, known)}"
    )


def missing_of_task(task: Any, name: str) -> Any:
    """Raises: AttributeError: a task has no such attribute; the text says what to use instead."""
    if (instead := TASKS_ELSEWHERE.get(name)) is not None:
        raise AttributeError(f"a task of Celeriac has no {name!r}: {instead}")
    raise AttributeError(f"{type(task).__name__!r} object has no attribute {name!r}")
