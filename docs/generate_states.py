"""Write docs/states.md from the table of states: `python docs/generate_states.py`."""

from __future__ import annotations

from pathlib import Path

from celeriac import states

PAGE = Path(__file__).parent / "states.md"

INTRODUCTION = """\
# The states of a task

<!-- Written by docs/generate_states.py; change the table in src/celeriac/states.py instead. -->

A state is what a caller reads: `result.state`. It comes from the result store, so a task whose result is not
kept stays `PENDING` for its caller, unless it fails: errors are kept even so.
"""

MEANINGS = {
    states.PENDING: "nothing is known: not sent, waiting, running without `track_started`, or not kept",
    states.RECEIVED: "Celery's; accepted where it is read, written by no worker of ours",
    states.STARTED: "runs now; stored only with `task_track_started`",
    states.RETRY: "has failed and waits at the broker for its next run",
    states.SUCCESS: "has returned",
    states.FAILURE: "has raised, refused its message, overran its hard limit, or died with its process",
    states.REVOKED: "did not run: it had expired, or was revoked",
    states.REJECTED: "Celery's; never stored: a refused message ends as `FAILURE`",
    states.IGNORED: "Celery's; never stored",
}

ENDING = """\
A state of the task's own (`self.update_state(state="PROGRESS")`) may follow and be followed like `STARTED`. The
store keeps the last record that was written. An end follows an end when a task has run more than once (its
process died after the result was stored and before the message was settled); a worker that has lost its lease
can no longer store anything.

`Ignore` stores nothing, so the state stays what it was. A message that a task has refused
(`Reject(requeue=False)`) is at the dead letters, which `celeriac dead` shows; whoever waits for its task is told so
by a `FAILURE` with `Reject`. With `requeue=True` nothing is stored: the message is in its queue again.
"""


def page() -> str:
    """The whole page."""
    rows = [f"| `{name}` | {_kind(name)} | {meaning} |" for name, meaning in MEANINGS.items()]
    table = "\n".join(["| state | kind | meaning |", "|---|---|---|", *rows])
    return f"{INTRODUCTION}\n{table}\n\n{_drawing()}\n{ENDING}"


def _kind(name: str) -> str:
    return "end" if name in states.READY_STATES else "on the way" if name in states.MOVES else "-"


def _drawing() -> str:
    """The moves from one state to another; those that stay where they are, and ways back, are left out."""
    ends = sorted(states.READY_STATES)
    way = [name for name in states.MOVES if name not in states.READY_STATES]
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {states.PENDING}"]
    for place, name in enumerate(way):
        later = [other for other in way[place + 1 :] if other in states.MOVES[name]]
        lines += [f"    {name} --> {other}" for other in (*later, *ends) if other in states.MOVES[name]]
    back = [
        f"    {name} --> {other}"
        for place, name in enumerate(way)
        for other in way[1:place]
        if other in states.MOVES[name]
    ]
    return "\n".join([*lines, *back, *(f"    {name} --> [*]" for name in ends), "```", ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
