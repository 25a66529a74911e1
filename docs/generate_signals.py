"""Write docs/reference/signals.md from the table of signals: `python docs/generate_signals.py`."""

from __future__ import annotations

from pathlib import Path

from celeriac import signals
from celeriac.dispatch import Signal

PAGE = Path(__file__).parent / "reference" / "signals.md"

INTRODUCTION = """\
# Signals

<!-- Written by docs/generate_signals.py; change that and src/celeriac/signals.py instead. -->

Celery's signals, with Celery's names and arguments:

    from celeriac.signals import task_failure, worker_process_init

    @worker_process_init.connect
    def open_connections(**named): ...

    @task_failure.connect(sender="proj.charge")
    def page_somebody(sender, task_id, exception, **named): ...

A receiver takes its arguments by name, and `**named` for those to come. It is held by a weak reference unless it is
connected with `weak=False`. `sender` may be a task or its name. `dispatch_uid` keeps a receiver from being connected
twice; `retry=True` calls one that raises again until it returns. **A receiver that raises is logged** (logger
`celeriac.signals`) and hurts nobody. A signal without receivers costs nothing.

A receiver runs where the thing happens, and the thing waits for it. Beyond signals there are [events](events.md), which
have more to tell.
"""

SECTIONS = {
    "Messages": (
        "Sent in the process that sends the message; for retries, callbacks and steps of chains, in "
        "the worker."
    ),
    "Tasks": (
        "Sent in the process that runs the task, also where its caller does (`apply`, "
        "`task_always_eager`). The sender is the task."
    ),
    "Workers": (
        "Sent in the template, the process that imports the application once and forks the children: "
        "the supervisor, which is the worker's main process, has no user code. What is loaded there "
        "is shared by the children; threads and connections that are opened there do not reach them. "
        "While a receiver runs, no child is forked."
    ),
    "Children": ("Sent in each process that runs tasks, in every pool. The sender is the worker's name."),
    "Logging": (
        "Sent in the template and in each child; the supervisor's own lines follow the command line."
    ),
    "Never sent": ("They can be imported. Who connects to one is warned (`SignalIsNeverSent`)."),
}

#: Signal -> its section and when it is sent.
MEANINGS = {
    "before_task_publish": (
        "Messages",
        "The message is about to be written. What a receiver changes in place has an effect: "
        "`headers` (own ones are added, changed and deleted: the run has them as `request.headers`; "
        "of Celery's only `expires`, `shadow` and `ignore_result`), the arguments in `body[0]` and "
        "`body[1]`, and in `properties` `priority`, `reply_to`, `correlation_id` and AMQP's other "
        "words about a message. Another header that is changed is warned of; what else is changed has"
        " no effect: the queue is chosen by routes. The sender is the task's name.",
    ),
    "after_task_publish": (
        "Messages",
        "The broker has stored the message. It is not sent for what a run sends by its end (retries, "
        "callbacks, steps of chains): that is stored in one step with it.",
    ),
    "task_sent": (
        "Messages",
        "Celery's old name for `after_task_publish`, with other arguments.",
    ),
    "task_received": (
        "Tasks",
        "A worker has taken the message and decided to run it. `request.id`, `request.name`.",
    ),
    "task_prerun": (
        "Tasks",
        "User code runs next, within its time limits.",
    ),
    "task_success": (
        "Tasks",
        "The task has returned; `runtime` in seconds.",
    ),
    "task_failure": (
        "Tasks",
        "The run has failed and there will be no other: the task raised, overran its hard limit, died"
        " with its process, or what it returned cannot be stored. `einfo` has the traceback as text.",
    ),
    "task_retry": (
        "Tasks",
        "The task will run again. `reason` is the `Retry`.",
    ),
    "task_postrun": (
        "Tasks",
        "Behind every run for which `task_prerun` was sent, unless its process died or its hard limit"
        " came first. `state` says how it ended; `retval` is what it returned or raised.",
    ),
    "task_revoked": (
        "Tasks",
        "The task will not run: it was revoked, or is too late (`expired`); or its run was "
        "`terminated`. Not sent where the broker drops it while it waits, as nobody takes it then. "
        "`signum` is None.",
    ),
    "task_rejected": (
        "Tasks",
        "A message cannot be decoded; it is a dead letter now. `message` is the delivery (`queue`, "
        "`data`), `exc` says why. There is no sender.",
    ),
    "task_unknown": (
        "Tasks",
        "No worker has known the task for `task_unknown_grace`; the message is a dead letter now. "
        "There is no sender.",
    ),
    "import_modules": (
        "Workers",
        "The modules of `imports` and `include` are imported next. The sender is the application.",
    ),
    "celeryd_init": (
        "Workers",
        "The application is imported; `conf` may be changed here, for the worker of this name. "
        "`options` are those of the command line. The sender is the worker's name.",
    ),
    "celeryd_after_setup": (
        "Workers",
        "The settings are as they will be. The sender is the worker's name.",
    ),
    "worker_init": (
        "Workers",
        "The last word before children are forked: the place to load what they share. The sender has "
        "`app` and `hostname`, here and below.",
    ),
    "worker_before_create_process": (
        "Workers",
        "A child is forked next.",
    ),
    "worker_ready": (
        "Workers",
        "All children take messages. Sent again when `SIGHUP` has loaded the application anew.",
    ),
    "worker_shutting_down": (
        "Workers",
        "An orderly stop has begun. `sig` is the signal's name, or another reason; `how` is `Warm` or"
        " `Cold`. The sender is the worker's name.",
    ),
    "worker_shutdown": (
        "Workers",
        "All children have ended. There is a second left.",
    ),
    "worker_process_init": (
        "Children",
        "The child is there and has taken nothing yet: the place to open its connections.",
    ),
    "worker_process_shutdown": (
        "Children",
        "All that the child has run is settled; it exits next. Not sent where the process is killed.",
    ),
    "setup_logging": (
        "Logging",
        "Where this has a receiver, logs are set up by that alone: the formats, the colours and the "
        "redirection of what is printed do not apply. What it raises ends the process.",
    ),
    "after_setup_logger": (
        "Logging",
        "The root logger has been set up.",
    ),
    "after_setup_task_logger": (
        "Logging",
        "The same for `celeriac.task`, the parent of tasks' loggers, which writes to the root "
        "logger's handlers.",
    ),
}


def kinds() -> dict[str, Signal]:
    """Every signal by its name."""
    return {name: getattr(signals, name) for name in signals.__all__}


def page() -> str:
    """The whole page."""
    rest = kinds()
    parts = [INTRODUCTION]
    for section, text in SECTIONS.items():
        parts.append(f"## {section}\n\n{text}\n")
        own = [name for name, (where, _) in MEANINGS.items() if where == section]
        if section == "Never sent":
            own = sorted(rest)
        parts.extend(_entry(rest.pop(name), MEANINGS.get(name, ("", ""))[1]) for name in own)
    return "\n".join(parts)


def _entry(signal: Signal, text: str) -> str:
    if not text:
        if not signal.never:
            raise SystemExit(f"no meaning in {__file__} for {signal.name}")
        text = f"{signal.never[0].upper()}{signal.never[1:]}."
    named = ", ".join(f"`{name}`" for name in signal.providing_args)
    return f"### `{signal.name}`\n\n{text}\n" + (
        f"Arguments: {named}.\n" if named and not signal.never else ""
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
