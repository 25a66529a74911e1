"""Chord: calls that run side by side, and a body that runs once with the list of their results.

`chord(header, body)`, or `group(...) | body`. The members' results meet at a join in the result store
(docs/design/0005); it is opened before the first member is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from celeriac import context, message
from celeriac.bulk import Members
from celeriac.context import Sender
from celeriac.result_sets import GroupResult
from celeriac.workflow import joining
from celeriac.workflow.group import group
from celeriac.workflow.signature import Signature, listed, maybe_signature, register_type, signature

#: What is said of a chord and means its body.
_FOR_BODY: Final = ("group_id", "group_index", "chord")


@register_type("chord")
class chord(Signature):
    """`chord((a.s(i) for i in range(100)), b.s())`, or `chord(header)(body)`."""

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        app: Sender | None = None,
        **options: Any,
    ) -> None:
        members: Any = maybe_signature(header, app)
        if isinstance(members, Signature) and members.subtask_type == "chain":
            members = members.kwargs["tasks"]
        if isinstance(members, list | tuple):
            # As with Celery: what is linked to the header's members later is not linked to the caller's.
            members = [signature(member, app=app) for member in cast("list[Any]", members)]
        parts: dict[str, Any] = {
            "header": members if isinstance(members, group) else group(cast("Any", members), app=app),
            "body": maybe_signature(body, app),
            "kwargs": dict(kwargs or {}),
        }
        super().__init__(task, args, parts, options, subtask_type="chord", app=app)

    @classmethod
    def from_dict(cls, form: Mapping[str, Any], app: Sender | None = None) -> Signature:
        parts: dict[str, Any] = form["kwargs"]
        header: Any = maybe_signature(parts["header"], app)
        body: Any = maybe_signature(parts.get("body"), app)
        header = header.clone() if isinstance(header, Signature) else header
        body = None if body is None else body.clone()
        options: dict[str, Any] = form.get("options") or {}
        made = cls(header, body, kwargs=parts.get("kwargs"), app=app, **options)
        made["args"], made["immutable"] = tuple(form.get("args") or ()), bool(form.get("immutable", False))
        return made

    @property
    def header(self) -> group:
        """The group that comes before the body."""
        return cast("group", self.kwargs["header"])

    @property
    def tasks(self) -> list[Signature]:
        """The members of the header."""
        return self.header.tasks

    @tasks.setter
    def tasks(self, members: Any) -> None:
        self.kwargs["header"] = members if isinstance(members, group) else group(members, app=self._app)

    @property
    def body(self) -> Any:
        """What runs when all members have ended."""
        return self.kwargs["body"]

    @body.setter
    def body(self, body: Any) -> None:
        self.kwargs["body"] = body

    @property
    def app(self) -> Sender:
        if self._app is None and self.body is not None and self.body._app is not None:
            return cast("Sender", self.body.app)
        return self._app if self._app is not None else self.header.app

    def merged(
        self,
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Arguments are for the members of the header."""
        if self.immutable or not kwargs:
            return super().merged(args, None, options)
        named = {**self.kwargs["kwargs"], **kwargs}
        merged_args, own, merged_options = super().merged(args, None, options)
        return merged_args, {**own, "kwargs": named}, merged_options

    # -- sending --------------------------------------------------------------------------------------------

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> Any:
        """Send the members. Returns the body's result; its parent is that of the header."""
        kwargs = dict(kwargs or {})
        body = maybe_signature(kwargs.pop("body", None) or self.body, self._app).clone()
        whole = type(self)(
            self.header.to_send(), body, args=self.args, kwargs=self.kwargs["kwargs"], app=self._app
        )
        whole["immutable"] = self.immutable
        app = whole.app
        if whole.runs_here():
            return whole.apply(args, kwargs, task_id=task_id, **options)
        given = {**self.options, **options}
        given.pop("add_to_parent", None)
        own: dict[str, Any] = {name: given.pop(name) for name in _FOR_BODY if name in given}
        rest = given.pop("chain", None)
        if rest:
            for step in reversed(rest):
                whole.body = whole.body | maybe_signature(step, app)
        given.pop("task_id", None)
        for callback in listed(given.pop("link", None)):
            whole.body.link(callback)
        for errback in listed(given.pop("link_error", None)):
            whole.body.link_error(errback)
        whole.body.options.update(given)
        found = GroupResult(whole.header.id or message.id_of(message.new_key()), Members(), None, app)
        result = _behind(found, whole.body.freeze(task_id or self.options.get("task_id"), **own))
        named = {**whole.kwargs["kwargs"], **kwargs}
        args = whole.args if whole.immutable else (*(args or ()), *whole.args)
        _send(app, whole, args, {} if whole.immutable else named, given, found)
        context.add_to_trail(result)
        return result

    def first_and_rest(self) -> tuple[Signature, list[dict[str, Any]]]:
        return self.passed_through()

    def freeze(self, _id: str | None = None, **options: Any) -> Any:
        """Give every task its id; returns the body's result."""
        own: dict[str, Any] = {name: options.pop(name) for name in _FOR_BODY if name in options}
        header = self.header.freeze(**options)
        return _behind(header, self.body.freeze(_id or self.options.get("task_id"), **options, **own))

    def apply(self, args: Any = None, kwargs: Any = None, body: Any = None, **options: Any) -> Any:
        """Run the header and the body here and now. See `Signature.apply`."""
        return self.run_here(args, kwargs if body is None else {**(kwargs or {}), "body": body}, options)

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with this body: `chord(header)(body)`."""
        return self.apply_async((), {"body": body} if body is not None else {}, **options)

    # -- making others of it --------------------------------------------------------------------------------

    def link(self, callback: Any) -> Any:
        """Link the callback to the body; returns it."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Link the error callback to the body; to each member too with `task_allow_error_cb_on_chord_header`."""
        if getattr(self.app.conf, "task_allow_error_cb_on_chord_header", False):
            self.header.link_error(maybe_signature(errback, self._app).clone())
        if self.body is not None:
            self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Whether the body takes the results."""
        if self.body is not None:
            self.body.set_immutable(immutable)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        longer = self.clone()
        longer.body = longer.body | maybe_signature(cast("Any", other), self._app).clone()
        return longer

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"chord({self.header!r}, {self.body!r})"


def _behind(header: GroupResult, result: Any) -> Any:
    """The body's result, the header's in front of it."""
    first = result
    while first.parent is not None:
        first = first.parent
    first.parent = header
    return result


def _send(
    app: Sender, whole: chord, args: Any, kwargs: dict[str, Any], options: dict[str, Any], found: GroupResult
) -> None:
    """Open the join, send the members; for an empty header the body at once."""
    header, join_id = whole.header, found.id
    size = None if header.is_streamed else len(header.tasks)
    if size == 0:
        whole.body.apply_async(([],))
        return
    joining.open_join(app, join_id, size, whole.body, parent_id=header.last_id())
    sent = header.send_members(app, args, kwargs, options, join_id, found)
    if size is None:
        joining.size_join(app, join_id, sent)
