"""Group: calls that run side by side, sent in bulk under one id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any, cast

from celeriac import context, message
from celeriac.context import Sender
from celeriac.producer import Call, new_keys
from celeriac.result_sets import GroupResult
from celeriac.workflow.signature import Signature, maybe_signature


@Signature.register_type("group")
class group(Signature):
    """`group(a.s(1), b.s(2))`, or `group(a.s(i) for i in range(100))`."""

    def __init__(self, *tasks: Any, app: Sender | None = None, **options: Any) -> None:
        members: Iterable[Any] = tasks
        if len(tasks) == 1:
            only = tasks[0]
            if isinstance(only, group):
                members = only.tasks
            elif not isinstance(only, Mapping):
                members = only
        listed = [
            member if isinstance(member, Signature) else maybe_signature(member, app) for member in members
        ]
        super().__init__("celery.group", (), {"tasks": listed}, options, subtask_type="group", app=app)

    @classmethod
    def from_dict(cls, form: Mapping[str, Any], app: Sender | None = None) -> Signature:
        other = cls([maybe_signature(m, app).clone() for m in form["kwargs"]["tasks"]], app=app,
                    **(form.get("options") or {}))  # fmt: skip
        other["args"] = tuple(form.get("args") or ())
        other["kwargs"].update({name: value for name, value in form["kwargs"].items() if name != "tasks"})
        other["immutable"] = bool(form.get("immutable", False))
        return other

    @property
    def tasks(self) -> list[Signature]:
        """The members, in order."""
        return cast("list[Signature]", self.kwargs["tasks"])

    @property
    def app(self) -> Sender:
        if self._app is not None or not self.tasks:
            return super().app
        return self.tasks[0].app

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult:
        """Send all members, in bulk; options are for every one. Raises: as `Task.apply_async`."""
        app = self.app
        given = {**self.options, **options}
        group_id = given.pop("task_id", None) or message.id_of(message.new_key())
        given.pop("add_to_parent", None)
        if given.pop("chain", None):
            raise NotImplementedError("a step after a group is a chord, which comes in a later version")
        args = (*(args or ()), *self.args)
        named: dict[str, Any] = {**self._own_kwargs(), **(kwargs or {})}
        given["group_id"] = group_id
        results: list[Any] = []
        app.send_many(self._calls(app, args, named, given, results))
        found = GroupResult(group_id, results, None, app)
        context.add_to_trail(found)
        return found

    def _calls(
        self, app: Sender, args: Any, kwargs: dict[str, Any], options: dict[str, Any], results: list[Any]
    ) -> Iterator[Call]:
        """The members' calls one by one; their results are put into the list."""
        patterns: dict[str, Any] = {}
        keys = new_keys(len(self.tasks))
        for place, member in enumerate(self.tasks):
            if not member.options and type(member) is Signature:
                pattern = patterns.get(member.task)
                if pattern is None:
                    task = app.tasks.get(member.task)
                    pattern = patterns[member.task] = task is not None and (task.bulk(options) or False)
                if pattern is not False:
                    own_args, own_kwargs = member["args"], member["kwargs"]
                    if args or kwargs:
                        own_args, own_kwargs, _ = member.merged(args, kwargs)
                    results.append(pattern.result(keys[place]))
                    yield pattern.call(keys[place], own_args, own_kwargs, place)
                    continue
            with context.collecting() as calls:
                result = member.apply_async(args, kwargs, group_index=place, add_to_parent=False, **options)
            results.append(result)
            yield from calls

    def _own_kwargs(self) -> dict[str, Any]:
        return {name: value for name, value in self.kwargs.items() if name != "tasks"}

    def freeze(self, _id: str | None = None, **options: Any) -> GroupResult:
        """Give every member its id; returns the result that the group will have."""
        group_id = _id or self.id or message.id_of(message.new_key())
        self.options["task_id"] = group_id
        options.pop("group_id", None)
        results = [
            member.freeze(group_id=group_id, group_index=place, **options)
            for place, member in enumerate(self.tasks)
        ]
        return GroupResult(group_id, results, None, self._app)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult:
        """Run the members here and now."""
        given = {**self.options, **options}
        group_id = given.pop("task_id", None) or message.id_of(message.new_key())
        args = (*(args or ()), *self.args)
        results = [member.apply(args, kwargs, group_id=group_id, **given) for member in self.tasks]
        return GroupResult(group_id, results, None, self._app)

    def link(self, callback: Any) -> Any:
        """Link the callback to the first member, as Celery does; returns the callback."""
        return self.tasks[0].link(callback) if self.tasks else callback

    def link_error(self, errback: Any) -> Any:
        """Link the error callback to every member; returns it."""
        for member in self.tasks:
            member.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Whether the members take no result of an earlier step."""
        for member in self.tasks:
            member.set_immutable(immutable)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group:
        """Give the members countdowns that grow, so that they do not all start at once."""
        for place, member in zip(count(), self.tasks, strict=False):
            delay = start + place * step
            member.set(countdown=delay if stop is None else start + (delay - start) % max(stop - start, step))
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> GroupResult:
        """Send it, with these arguments for every member."""
        return self.apply_async(args, kwargs)

    def __or__(self, other: Any) -> Any:
        raise NotImplementedError("a step after a group is a chord, which comes in a later version")

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"group({self.tasks!r})"
