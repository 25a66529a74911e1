"""Every error that Celeriac raises, in one tree. Celery's names are kept where Celery had one.

    CeleriacError (also: CeleryError)
    ├── ImproperlyConfigured ── UnknownSetting, UnknownOption, UnknownScheme
    ├── SecurityError
    ├── OperationalError ── BrokerUnavailable, BrokerRefused
    ├── BackendError ── ResultStoreUnavailable, BackendGetMetaError, BackendStoreError, ResultNotStored
    ├── EncodeError, DecodeError ── ContentDisallowed, UnknownVersion
    ├── MessageTooLarge
    ├── LeaseLost
    ├── IncompleteStream
    ├── TaskPredicate ── Ignore, Reject, Retry           what a task may raise to steer its own end
    └── TaskError ── NotRegistered, AlreadyRegistered, QueueNotFound, InvalidTaskError, TimeoutError,
                     MaxRetriesExceededError, TaskRevokedError, ChordError, SoftTimeLimitExceeded,
                     TimeLimitExceeded, WorkerLostError, UnrebuiltError

    Terminated, RunAbandoned                              raised inside a run; no errors, see there

An error says what is wrong, which thing it is about, and what to do. It never contains a password.
Words only: this module imports nothing but the standard library.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any


class CeleriacError(Exception):
    """Base of all errors of this package."""


CeleryError = CeleriacError


class CeleriacWarning(UserWarning):
    """Base of all warnings of this package."""


CeleryWarning = CeleriacWarning


class AlwaysEagerIgnored(CeleriacWarning):
    """`send_task` ignores `task_always_eager`: there is no task function here to run."""


class SettingHasNoEffect(CeleriacWarning):
    """A setting of Celery's was accepted that has nothing to act on here; the text says why."""


class ImproperlyConfigured(CeleriacError):
    """Settings that cannot work; the text names the setting."""


class SignalIsNeverSent(CeleriacWarning):
    """A receiver was connected to a signal of Celery's for which there is no occasion here."""


class NotConfigured(CeleriacWarning):
    """No settings were found where they were looked for."""


class UnknownSetting(ImproperlyConfigured, AttributeError):
    """No setting has this name; the nearest right one is in the text."""


class UnknownOption(ImproperlyConfigured, TypeError):
    """No task option, send option or constructor argument has this name."""


class UnknownScheme(ImproperlyConfigured, ValueError):
    """No broker, result store or pool goes by this name."""


class SecurityError(CeleriacError):
    """Something that could run foreign code, or leak a secret, was refused."""


class OperationalError(CeleriacError):
    """The broker could not do what was asked of it."""


class BrokerUnavailable(OperationalError, ConnectionError):
    """The message was not stored (or not known to be stored) within `broker_publish_timeout` seconds."""


class BrokerRefused(OperationalError):
    """The broker answered, and refused what will be refused again: a wrong password, a missing permission, a full disk.

    `settled`: of the settlements of this call, how many of the first took effect all the same.
    """

    def __init__(self, text: str, settled: int = 0) -> None:
        super().__init__(text)
        self.settled = settled


class QueueFull(BrokerRefused):
    """As many messages wait in the queue as its `max_length` says. Nothing is ever dropped to make room."""


class BackendError(CeleriacError):
    """The result store could not do what was asked of it."""


class ResultStoreUnavailable(BackendError, ConnectionError):
    """The result store could not be reached in time."""


class BackendGetMetaError(BackendError):
    """A stored result could not be read."""

    def __init__(self, *args: Any, task_id: str | None = None) -> None:
        super().__init__(*args)
        self.task_id = task_id


class BackendStoreError(BackendError):
    """A result could not be stored."""

    def __init__(self, *args: Any, state: str | None = None, task_id: str | None = None) -> None:
        super().__init__(*args)
        self.state = state
        self.task_id = task_id


class ResultNotStored(BackendError, RuntimeError):
    """This task's return value is not kept, so waiting for it would never end."""


class EncodeError(CeleriacError, TypeError):
    """A value cannot be written by the serializer that was asked for."""


class DecodeError(CeleriacError, ValueError):
    """Bytes that are not what they should be: truncated, garbage, or of another format."""


class ContentDisallowed(DecodeError, SecurityError):
    """The serializer is not listed in `accept_content`."""


class UnknownVersion(DecodeError):
    """A message of a later version of the format than this one understands."""


class MessageTooLarge(CeleriacError, ValueError):
    """The message is larger than `task_message_max_size` bytes."""


class LeaseLost(CeleriacError):
    """This consumer's lease ended: what it held has been given to others."""


class IncompleteStream(CeleriacError):
    """A task has not ended, so it is not known yet which tasks it has sent."""


class TaskPredicate(CeleriacError):
    """Raised by a task to steer how its run ends; not a failure."""


class Ignore(TaskPredicate):
    """End the run without storing a result; the task may have set a state of its own."""


class Reject(TaskPredicate):
    """Refuse the message: back to its queue with `requeue=True`, else to the dead letters."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class Retry(TaskPredicate):
    """The run ends here and the task is sent again; raised by `Task.retry`."""

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message = message
        self.exc = exc
        self.when = when
        self.is_eager = is_eager
        self.sig = sig

    def humanize(self) -> str:
        """When the next run is: `in 3.0s` or `at 2026-01-01 00:00:00`."""
        return f"in {self.when}s" if isinstance(self.when, int | float) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}" + (f": {self.exc!r}" if self.exc else "")


RetryTaskError = Retry


class TaskError(CeleriacError):
    """Something about one task or one run of it."""


class NotRegistered(TaskError, KeyError):
    """No task of this name is known to this application."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AlreadyRegistered(TaskError):
    """Two different functions were given the same task name."""


class QueueNotFound(TaskError, KeyError):
    """A queue that is not declared, while `task_create_missing_queues` is off."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InvalidTaskError(TaskError):
    """The message does not describe a task call."""


class TimeoutError(TaskError, builtins.TimeoutError):
    """The result did not come within the time that the caller gave."""


class MaxRetriesExceededError(TaskError):
    """`max_retries` runs have failed; there will be no further one."""

    def __init__(self, *args: Any, task_args: Any = (), task_kwargs: Any = None) -> None:
        super().__init__(*args)
        self.task_args: Any = task_args
        self.task_kwargs: Any = task_kwargs or {}


class TaskRevokedError(TaskError):
    """The task was revoked, or expired before it started."""


class ChordError(TaskError):
    """A member of a chord's header failed."""


class SoftTimeLimitExceeded(TaskError):
    """Raised inside the task at its soft time limit, so that it can clean up."""


class TimeLimitExceeded(TaskError):
    """The run was ended at its hard time limit."""


class Terminated(BaseException):
    """Raised inside the task when it is revoked with `terminate=True`, so that it can clean up.

    It has `worker_revoke_grace` seconds for that. A run that lets this pass ends as REVOKED. No error, so that
    `except Exception` lets it pass, and no retry follows.
    """


class RunAbandoned(BaseException):
    """Raised inside a run that was given up (at its hard time limit, in gevent): it unwinds the task.

    The task has failed already. No error, so that `except Exception` lets it pass.
    """


class WorkerLostError(TaskError):
    """The process that ran the task died."""


class UnrebuiltError(TaskError):
    """Stands for an exception that cannot be rebuilt here; its class bears the original's name.

    `exc_module`, `exc_cls_name` and `exc_args` say what it was. Where the original's class is known here and only its
    constructor refuses the args, the stand-in is of that class too: `except ThatError` catches it.
    """

    exc_module: str = ""
    exc_cls_name: str = ""
    exc_args: tuple[Any, ...] = ()
    text: str = ""

    def __init__(self, *args: Any) -> None:
        Exception.__init__(self, *args)

    def __str__(self) -> str:
        return self.text or Exception.__str__(self)
