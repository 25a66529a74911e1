"""Write docs/reference/command-line.md from the commands' parsers: `python docs/generate_command_line.py`."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from celeriac import cli, wire
from celeriac.cli import parsing

PAGE = Path(__file__).parent / "reference" / "command-line.md"

INTRODUCTION = """\
# Command line

<!-- Written by docs/generate_command_line.py; change the parsers in src/celeriac/cli instead. -->

    celeriac -A proj worker -Q mail
    celeriac worker -A proj -Q mail

Both orders mean the same; so does `python -m celeriac`. An unknown command, flag or value is an error that names the
nearest right one, and exits with 64. What a command tells goes to the standard output, errors go to the error
output as one sentence. No command prints a password.

Commands that need no tasks (`queues`, `purge`, `dead`, `pause`, `resume`, `result`, `config`, `report`, also `call`)
work without `-A`: `-b URL`, the environment or `--config` then say where the broker is.

Tables are drawn by `rich` on a terminal, where it is installed (`pip install 'celeriac[cli]'`); into a pipe or a
file they are plain columns.

## Environment

- `CELERIAC_APP`, else `CELERY_APP`, is `-A`.
- `CELERIAC_BROKER`, else `CELERY_BROKER`, is `-b`; the settings' own variables (`CELERIAC_BROKER_URL`...) count where
  neither is given.
- `CELERIAC_CONFIG_MODULE`, else `CELERY_CONFIG_MODULE`, is `--config`.
- `NO_COLOR`, `CELERIAC_NO_COLOR` or `CELERY_NO_COLOR`, not empty, is `--no-color`.
- `CELERY_WORKER_LOGLEVEL`, `CELERY_CALL_QUEUE` and so on are the options of a command, as with Celery: `CELERY_`, the
  command and the long option in upper case.

Celery's bare names (`APP`, `BROKER_URL`, `RESULT_BACKEND`) are not read: other programs use them too.
"""

ELSEWHERE = """\
Other commands: 0 when it is done; 1 when it cannot be (no such dead letter, a task that failed or has not ended, an
application that cannot be imported, "no" to a question); 64 and 69 as above.
"""

LOG_LINES = """\
## Log lines

Lines about tasks have Celery's words, for those who parse them:

    Task NAME[ID] received
    Task NAME[ID] succeeded in 0.012345s: RESULT
    Task NAME[ID] raised unexpected: EXCEPTION
    Task NAME[ID] raised expected: EXCEPTION
    Task NAME[ID] retry: Retry in 3s: EXCEPTION
    Task NAME[ID] reject requeue=False: REASON
    Task NAME[ID] ignored
    Discarding revoked task: NAME[ID]
    Received unregistered task of type 'NAME'

`--log-format json`, or the setting `worker_log_format="json"`, writes one JSON object per line: `time` (ISO 8601,
UTC), `level`, `logger`, `message`, `process`, `pid`, `worker`, and where they apply `task`, `id`, `queue`, `runtime`,
`result`, `exception`, `traceback`. Each record is one write, so lines of several processes do not mix. A `--logfile`
that has been moved away is opened anew; in its name `%n`, `%h`, `%d`, `%p`, `%i` and `%I` are filled in as by Celery.
"""


HEALTH = """\
## Health probes

`celeriac worker --health 127.0.0.1:8081` (in a container `0.0.0.0:8081`) answers over HTTP, from the supervisor and
while tasks run. The answer is one line that says why: 200 with `live`, or 503 with
`not live: child 3 has not come round for 21 s`.

- `/live`: need it be ended? A child that runs nothing and has not come round for 20 seconds makes it *not live*; after
  30 seconds the supervisor replaces that child. A long task is no reason, nor is a broker that is away. A supervisor
  that is stuck itself does not answer.
- `/ready`: does it take messages? Not while it starts or stops, nor while the broker is away: that is seen with the
  next renewal of leases, every third of `worker_lease`.
- `/status`: children and what they run, as JSON, for those on the same machine only.

For Kubernetes:

    livenessProbe:  {httpGet: {path: /live, port: 8081}, periodSeconds: 10, failureThreshold: 3}
    readinessProbe: {httpGet: {path: /ready, port: 8081}, periodSeconds: 5}
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, _exit_codes(), HEALTH, LOG_LINES, "## General options\n"]
    general = parsing.Parser(None, "")
    parsing.add_general_options(general)
    known = {action.dest for action in general.options}
    parts += [*(_option(action) for action in general.options if action.help != argparse.SUPPRESS), ""]
    for name, row in cli.COMMANDS.items():
        module = importlib.import_module(row.module)
        parser = cli.parser_of(name, module)
        parts.append(f"## `celeriac {name}`\n\n{(module.__doc__ or '').strip()}\n")
        own = [action for action in parser.options if action.dest not in known]
        parts += [*map(_option, own), ""] if own else []
    return "\n".join(parts).rstrip("\n") + "\n"


def _exit_codes() -> str:
    rows = {
        **wire.EXIT_CODES,
        73: "the pidfile or the log file cannot be made",
        cli.EXIT_INTERRUPTED: "interrupted at the keyboard before it was up",
    }
    lines = [f"| {code} | {meaning} |" for code, meaning in sorted(rows.items())]
    table = "\n".join(["| code | `celeriac worker` |", "|--:|---|", *lines])
    return f"## Exit codes\n\n{table}\n\n{ELSEWHERE}"


def _option(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{name}`"
    value = f" `{name}`" if action.option_strings and action.nargs != 0 else ""
    text = (action.help or "").replace("%%", "%")
    return f"- {flags}{value}" + (f": {text}" if text else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
