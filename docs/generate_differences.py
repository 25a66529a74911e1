"""Write the tables of docs/differences-from-celery.md from the code: `python docs/generate_differences.py`.

The page around the tables is written by hand.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from celeriac.app.rarely import ELSEWHERE, TASKS_ELSEWHERE
from celeriac.control.commands import COMMANDS_ELSEWHERE
from celeriac.control.inspecting import INSPECT_ELSEWHERE
from celeriac.settings import SETTINGS

HERE = Path(__file__).parent
PAGE = HERE / "differences-from-celery.md"
BEGIN, END = "<!-- {}: written by docs/generate_differences.py -->\n", "<!-- end of {} -->"

#: Why a default is another one. A setting that differs and is not here stops the script.
REASONS = {
    "accept_content": "the message is msgpack by default; all three hold plain data only",
    "beat_schedule_filename": "last runs belong to the broker, which every beat sees",
    "beat_scheduler": "named only to replace the built-in one",
    "broker_connection_max_retries": "a broker that is away is waited for; `broker_connection_lost_timeout` ends that",
    "broker_connection_retry_on_startup": "a worker may start before its broker",
    "broker_failover_strategy": "what Celery's None means",
    "broker_url": "the embedded default: one machine, no server (Celery's None is `amqp://guest@localhost//`)",
    "redis_socket_keepalive": "a connection that a firewall has dropped is noticed",
    "redis_socket_timeout": "a store that does not answer is noticed",
    "result_expires": "few results are read, and those soon",
    "result_serializer": "smaller and faster; carries bytes, dates and decimals as they are",
    "task_acks_late": "a task whose worker dies runs again",
    "task_ignore_result": "fewer than 5 % of stored results are ever read; ask with `ignore_result=False`",
    "task_serializer": "smaller and faster; carries bytes, dates and decimals as they are",
    "task_store_errors_even_if_ignored": "errors are worth keeping",
    "worker_prefetch_multiplier": "a batch adapts to measured run times; long tasks are never taken ahead",
    "worker_proc_alive_timeout": "applications take seconds to import",
}


def page() -> str:
    """The whole page, its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("table", _table()), ("names", _names())):
        begin, end = BEGIN.format(name), END.format(name)
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{table}\n\n{end}{tail}"
    return text


def differing() -> dict[str, tuple[Any, Any]]:
    """The settings of both with Celery's default and ours, where these are not the same."""
    found: dict[str, tuple[Any, Any]] = {}
    for line in (HERE / "celery_defaults.txt").read_text(encoding="utf-8").splitlines():
        name, equals, text = line.partition(" = ")
        if not equals or name not in SETTINGS:
            continue
        theirs = float("inf") if text == "inf" else ast.literal_eval(text)
        if SETTINGS[name].default != theirs:
            found[name] = (theirs, SETTINGS[name].default)
    return found


def _table() -> str:
    rows = ["| setting | Celery | Celeriac | why |", "|---|---|---|---|"]
    for name, (theirs, ours) in differing().items():
        rows.append(f"| `{name}` | `{theirs!r}` | `{ours!r}` | {REASONS[name]} |")
    return "\n".join(rows)


def _names() -> str:
    """What is not there, and what its error says to use instead."""
    rows = ["| Celery | instead |", "|---|---|"]
    for owner, names in (
        ("app", ELSEWHERE),
        ("task", TASKS_ELSEWHERE),
        ("app.control", COMMANDS_ELSEWHERE),
        ("app.control.inspect()", INSPECT_ELSEWHERE),
    ):
        rows += (f"| `{owner}.{name}` | {instead} |" for name, instead in names.items())
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
