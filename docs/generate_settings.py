"""Write docs/reference/settings.md from the tables of settings: `python docs/generate_settings.py`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from celeriac.settings import SETTINGS, Setting
from celeriac.settings_without_effect import NOT_YET, OPTIONS_WITHOUT_EFFECT, WITHOUT_EFFECT

PAGE = Path(__file__).parent / "reference" / "settings.md"

INTRODUCTION = """\
# Settings

<!-- Written by docs/generate_settings.py; change the rows in src/celeriac/settings.py instead. -->

A setting is given, from the weakest source to the strongest, by

1. its default;
2. `app.conf.add_defaults({...})`;
3. a settings object or module: `app.config_from_object("proj.settings")`;
4. the environment: `CELERIAC_` and its name in upper case, as in `CELERIAC_TASK_ACKS_LATE=no`. An empty variable
   counts as not set;
5. the program: `app.conf.task_acks_late = False`, `app.conf.update(...)`, `Celeriac("proj", broker=...)`;
6. the environment's URLs, which win over the program's, as with Celery: `CELERY_BROKER_URL`, `CELERY_BROKER_READ_URL`,
   `CELERY_BROKER_WRITE_URL` and `CELERY_RESULT_BACKEND`, or the same with `CELERIAC_`, which are asked first;
7. the command line: the flags named below, or `task_acks_late=no` after the options.

Celery's old upper-case names are accepted wherever its new ones are. With `namespace="CELERY"` only names
that begin with `CELERY_` are read, as in Django's settings. A name that is no setting, or a value of the
wrong type, is an error that names the nearest right one. `celeriac config` prints every value and its source.

In the environment and on the command line a boolean is one of `1`, `true`, `yes`, `on`, `0`, `false`, `no`
and `off`, a list is separated by commas, and a dict is written in JSON. Lengths of time are seconds; in
Python a `timedelta` will do.
"""

FAMILIES = {
    "broker": "The broker",
    "task": "Tasks and messages",
    "result": "Results",
    "worker": "Workers",
    "beat": "Schedules",
    "security": "Signed messages",
}
WHERE = {
    "accept": "task", "redis": "result", "imports": "worker", "include": "worker", "enable": "beat",
    "timezone": "beat",
}  # fmt: skip


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for family, title in FAMILIES.items():
        parts.append(f"## {title}\n")
        parts.extend(_entry(row) for row in SETTINGS.values() if _family(row.name) == family)
    parts.append("## Settings that nothing reads yet\n")
    parts.append("Known and checked. Setting one gives one warning.\n")
    parts.extend(f"- `{name}`: {why}" for name, why in NOT_YET.items())
    parts.append("\n## Settings of Celery's that have no effect here\n")
    parts.append("Accepted, with one warning that says why. Those that say where a server is are an error")
    parts.append("as long as no URL says it.\n")
    by_reason = sorted((row.why, row.name) for row in WITHOUT_EFFECT.values())
    for why, rows in groupby(by_reason, key=lambda row: row[0]):
        parts.append(f"- {why}: " + ", ".join(f"`{name}`" for _, name in rows))
    parts.append(
        "\nThe same for these keys of `broker_transport_options` and `result_backend_transport_options`:\n"
    )
    parts.extend(f"- `{name}`: {why}" for name, why in OPTIONS_WITHOUT_EFFECT.items())
    return "\n".join(parts) + "\n"


def _family(name: str) -> str:
    first = name.partition("_")[0]
    return WHERE.get(first, first)


def _entry(row: Setting) -> str:
    kind = "one of " + ", ".join(f"`{choice}`" for choice in row.choices) if row.choices else row.kind.name
    facts = [f"Default `{row.default!r}`", kind + (" or None" if row.accepts_none else "")]
    facts += [f"flag `{row.flag}`"] if row.flag else []
    facts += [f"Celery's old name `{row.old}`"] if row.old else []
    return f"### `{row.name}`\n\n{row.help}\n{'; '.join(facts)}.\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
