"""The application that a command works on: the one that `-A` names, else one made of settings alone."""

from __future__ import annotations

import argparse
import os
import traceback
from collections.abc import Iterable
from typing import Any

from celeriac import finding, plugins, wire
from celeriac.app import Celeriac
from celeriac.cli.parsing import CommandFailed, general_settings
from celeriac.exceptions import CeleriacError, ImproperlyConfigured
from celeriac.routing import usual_queues
from celeriac.settings import SETTINGS


def open_app(args: argparse.Namespace) -> Any:
    """The application, with the command line's settings.

    Without `-A` it knows no tasks; the environment, `--config` and `-b` say where its broker is.

    Raises:
        CommandFailed: the application cannot be imported.
        ImproperlyConfigured: nothing says where the broker is, or a setting is wrong.
    """
    app = find_app(args.app) if args.app else Celeriac("celeriac", set_as_current=False)
    app.conf.config_from_flags(general_settings(args))
    return app


def open_broker(args: argparse.Namespace, *, asks: bool = True) -> Any:
    """As `open_app`, for commands that ask the broker (of several one that answers): refuses to make an empty one by
    accident."""
    app = open_app(args)
    conf = app.conf
    default = SETTINGS["broker_url"].default.removeprefix("sqlite:///")
    is_given = args.app or conf.value_set_for("broker_url") or conf.value_set_for("broker_write_url")
    if not is_given and not os.path.exists(default):
        raise ImproperlyConfigured(
            "which broker? Name the application (-A proj), or the broker (-b URL, or CELERIAC_BROKER_URL)"
        )
    if asks:
        app.openings.reach()
    return app


def find_app(name: str) -> Any:
    """The application of that name; what goes wrong with its import is told in one sentence.

    Raises:
        CommandFailed: it cannot be imported.
    """
    try:
        return finding.find_app(name)
    except CeleriacError:
        raise
    except Exception as exc:  # user code: whatever its modules raise
        where = traceback.extract_tb(exc.__traceback__)[-1]
        place = "" if "importlib" in where.filename else f" ({where.filename}, line {where.lineno})"
        text = f"the application {name!r} cannot be imported: {type(exc).__name__}: {exc}{place}"
        raise CommandFailed(text, wire.EXIT_FAILURE) from exc


def known_queues(app: Any) -> list[str]:
    """The queues that the broker has seen or the application declares, sorted."""
    return sorted({*app.broker.queues(), *usual_queues(app.conf)})


def check_queues(app: Any, names: Iterable[str], hint: str = "") -> None:
    """Refuse the names of queues that neither the broker nor the application knows.

    Raises:
        ImproperlyConfigured: naming the nearest right one.
    """
    known = known_queues(app)
    for name in names:
        if name not in known:
            raise ImproperlyConfigured(
                f"no queue is called {name!r}.{plugins.nearest(name, known)} Known: {', '.join(known)}.{hint}"
            )
