"""The application of the workflows: tasks that write down their runs, and the trees as signatures.

Workers import this module; the environment says which broker, settings and folder.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from celeriac import Celeriac, chain, chord, context, group
from celeriac.brokers.contract import Outgoing
from tests.workflows import plan
from tests.workflows.plan import Chain, Chord, Group, Leaf, Tree, Workflow

FOLDER_VARIABLE, BROKER_VARIABLE, SETTINGS_VARIABLE = (
    "WORKFLOWS_FOLDER",
    "WORKFLOWS_BROKER",
    "WORKFLOWS_SETTINGS",
)
QUEUE = "workflows"


def signature(app: Celeriac, flow: Workflow) -> Any:
    """The workflow as it is sent."""
    whole = _sig(app, flow.tree) | app.tasks["workflows.last"].s(number=flow.number)
    whole.link_error(app.tasks["workflows.failed"].si(number=flow.number))
    return whole


def _sig(app: Celeriac, tree: Tree) -> Any:
    match tree:
        case Leaf():
            made = app.tasks["workflows.leaf"].s(number=tree.number, fails=tree.fails, twin=tree.twin)
            return made if tree.ignore_result is None else made.set(ignore_result=tree.ignore_result)
        case Chain(steps):
            return chain(*(_sig(app, step) for step in steps), app=app)
        case Group(members):
            return group([_sig(app, member) for member in members], app=app)
        case Chord(members, body):
            return chord([_sig(app, member) for member in members], _sig(app, body), app=app)


# -- in a worker ------------------------------------------------------------------------------------------------


def note(what: str, number: int) -> None:
    """One line, with one write, to the file of this process: it is there whatever kills the process."""
    request = context.current_task().request
    with open(f"{os.environ[FOLDER_VARIABLE]}/runs-{os.getpid()}", "ab", buffering=0) as diary:
        diary.write(f"{what} {number} {request.id} {os.getpid()}\n".encode())


def leaf(self: Any, before: Any = None, *, number: int, fails: bool, twin: bool) -> int:
    note("leaf", number)
    request = self.request
    if twin and not fails and request.chord and not request.chain and _is_first(number):
        again = Outgoing(request.delivery.queue, request.delivery.data)
        self.app.broker.send([again], self.app.conf.broker_publish_timeout)
    if fails:
        raise ValueError(number)
    return plan.fold(number, before)


def _is_first(number: int) -> bool:
    """Whether nobody has asked this for that number."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(f"{os.environ[FOLDER_VARIABLE]}/twin-{number}", os.O_CREAT | os.O_EXCL))
        return True
    return False


def last(before: Any, *, number: int) -> Any:
    note("last", number)
    return before


def failed(*, number: int) -> None:
    note("failed", number)


def make_app(broker: str, **settings: Any) -> Celeriac:
    """The application of the tasks above."""
    app = Celeriac("workflows", broker=broker, task_default_queue=QUEUE, **settings)
    app.task(name="workflows.leaf", bind=True)(leaf)
    app.task(name="workflows.last", ignore_result=False)(last)
    app.task(name="workflows.failed")(failed)
    return app


if BROKER_VARIABLE in os.environ:
    app = make_app(os.environ[BROKER_VARIABLE], **json.loads(os.environ[SETTINGS_VARIABLE]))
