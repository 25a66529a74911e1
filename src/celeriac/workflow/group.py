"""Group: calls that run side by side, sent in bulk under one id.

A group may be made of a generator. It is read when the group is sent, some thousand members at a time, so that a
million members are never in memory at once; whatever else asks for the members reads it into a list first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Any, Final, cast

from celeriac import clock, context, message
from celeriac.bulk import Members
from celeriac.context import Sender
from celeriac.producer import Call, new_keys
from celeriac.result_sets import GroupResult
from celeriac.workflow import joining
from celeriac.workflow.signature import Signature, maybe_signature, register_type

#: So many members at most, or so many seconds of a slow generator, are sent together.
_TOGETHER: Final = 5_000
_PATIENCE: Final = 0.2
#: A generator of no more members than this is kept as a list when it has been read.
_KEPT: Final = 10_000
_OWN: Final = "tasks"


class _Stream:
    """A generator of members, shared by all copies of its group."""

    def __init__(self, members: Iterator[Any]) -> None:
        self._members = members
        self._kept: list[Any] | None = []

    def read(self) -> Iterator[Any]:
        """All members: those that were read before, then those to come.

        Raises: RuntimeError: they were read before, and were too many to keep.
        """
        if self._kept is None:
            raise RuntimeError("the generator of this group was used up when it was sent: make a list of it")
        yield from list(self._kept)
        for member in self._members:
            if self._kept is not None:
                self._kept.append(member)
                if len(self._kept) > _KEPT:
                    self._kept = None
            yield member

    def first(self) -> list[Any]:
        """The first member, if there is one."""
        kept: list[Any] = [] if self._kept is None else self._kept
        if not kept and self._kept is not None:
            kept.extend(islice(self._members, 1))
        return kept[:1]

    def parts(self) -> Iterator[list[Any]]:
        """The members in parts that are to be sent together."""
        part: list[Any] = []
        began = clock.monotonic()
        for member in self.read():
            part.append(member)
            if len(part) >= _TOGETHER or clock.monotonic() - began > _PATIENCE:
                yield part
                part, began = [], clock.monotonic()
        yield part


@register_type("group")
class group(Signature):
    """`group(a.s(1), b.s(2))`, or `group(a.s(i) for i in range(100))`."""

    _stream: _Stream | None = None

    def __init__(self, *tasks: Any, app: Sender | None = None, **options: Any) -> None:
        members: Iterable[Any] = tasks
        if len(tasks) == 1:
            only = tasks[0]
            if isinstance(only, group):
                members = only.tasks
            elif not isinstance(only, Mapping):
                members = only
        super().__init__("celery.group", (), {}, options, subtask_type="group", app=app)
        if isinstance(members, Iterator):
            self._stream = _Stream(members)
            return
        self._inside[_OWN] = [self._member(member) for member in members]

    def _member(self, member: Any) -> Signature:
        return member if isinstance(member, Signature) else maybe_signature(member, self._app)

    @classmethod
    def from_dict(cls, form: Mapping[str, Any], app: Sender | None = None) -> Signature:
        options: dict[str, Any] = form.get("options") or {}
        members = [maybe_signature(m, app).clone() for m in form["kwargs"][_OWN]]
        return cls(members, app=app, **options).dressed_as(form)

    # -- members --------------------------------------------------------------------------------------------

    @property
    def is_streamed(self) -> bool:
        """Whether the members come from a generator that has not been read."""
        return self._stream is not None

    @property
    def _inside(self) -> dict[str, Any]:
        """The arguments by name, without reading a generator."""
        return cast("dict[str, Any]", super().__getitem__("kwargs"))

    def _read_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._inside[_OWN] = [self._member(member) for member in stream.read()]

    def __getitem__(self, name: str) -> Any:
        if name == "kwargs" and self._stream is not None:
            self._read_stream()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def __iter__(self) -> Iterator[str]:
        # Overridden, so that `dict(group)` and the like come here and not around `__getitem__`.
        return super().__iter__()

    def items(self) -> Any:
        self._read_stream()
        return super().items()

    def values(self) -> Any:
        self._read_stream()
        return super().values()

    @property
    def tasks(self) -> list[Signature]:
        """The members, in order."""
        return cast("list[Signature]", self.kwargs[_OWN])

    @property
    def app(self) -> Sender:
        if self._stream is not None:
            return self.app_of([self._member(member) for member in self._stream.first()])
        return self.app_of(self.tasks)

    def unrolled(self) -> Signature:
        """The one member of a group that has no other, else the group."""
        return self.tasks[0].clone() if not self.is_streamed and len(self.tasks) == 1 else self

    # -- sending --------------------------------------------------------------------------------------------

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult:
        """Send all members, in bulk; options are for every one. Raises: as `Task.apply_async`."""
        app = self.app
        given = {**self.options, **options}
        if self.runs_here():
            return self.apply(args, kwargs, **options)
        group_id = given.pop("task_id", None) or message.id_of(message.new_key())
        for name in ("add_to_parent", "group_id", "group_index"):
            given.pop(name, None)
        rest, seat = given.pop("chain", None), given.pop("chord", None)
        if rest or seat:
            return cast("GroupResult", self._with_body(rest, seat, group_id, args, kwargs, given))
        args = (*(args or ()), *self.args)
        found = GroupResult(group_id, Members(), None, app)
        self.send_members(
            app, args, {**self.own_kwargs(), **(kwargs or {})}, {**given, "task_id": group_id}, None, found
        )
        context.add_to_trail(found)
        return found

    def _with_body(
        self, rest: Any, seat: Any, group_id: str, args: Any, kwargs: Any, given: dict[str, Any]
    ) -> Any:
        """What follows a group makes a chord of it; so does a seat at a join, at which it has to arrive as one."""
        steps = [maybe_signature(step, self._app) for step in reversed(rest or ())]
        body = steps[0] if steps else Signature("celery.accumulate", (), {"index": 0}, app=self._app)
        for step in steps[1:]:
            body = body | step
        whole = self.clone()
        whole.options["task_id"] = group_id
        seated = {} if seat is None else {"chord": seat}
        return (whole | body).apply_async(args, kwargs, **given, **seated)

    def send_members(
        self, app: Sender, args: Any, kwargs: dict[str, Any], options: dict[str, Any], join_id: str | None,
        found: GroupResult,
    ) -> int:  # fmt: skip
        """Send the members, under a join where one is given; their results are added to `found`. Returns how many
        there were."""
        given = {**options, "group_id": found.id}
        given.pop("task_id", None)
        parts = [self._flat()] if self._stream is None else map(self._flatten, self._stream.parts())
        for part in parts:
            app.send_many(
                self._calls(app, part, (args, kwargs, given), join_id, cast("Members", found.results))
            )
        return len(found.results)

    def to_send(self) -> group:
        """A copy that shares the members. The last one has its id, where that can be known now."""
        if self._stream is not None and context.JOINS.get() is None and context.COLLECTED.get() is None:
            return self.clone()
        # Where nothing runs before all is sent, there is no need to begin with a part of a generator.
        members = list(self._flat())
        if members:
            last = members[-1] = members[-1].clone()
            last.freeze()
        other = type(self)(app=self._app, **self.options)
        other._inside.update(self.own_kwargs(), tasks=members)
        other["args"], other["immutable"] = self.args, self.immutable
        return other

    def last_id(self) -> str | None:
        """The id of the last member's task, where it is known."""
        return (
            None
            if self._stream is not None or not self.tasks
            else joining.end_of(self.tasks[-1])["options"]["task_id"]
        )

    def _flat(self) -> list[Signature]:
        """The members, those of groups among them in their places; they stay so."""
        members = self.tasks
        if any(member.subtask_type in ("group", "chain") for member in members):
            members = self._inside[_OWN] = self._flatten(members)
        return members

    def _flatten(self, members: Iterable[Any]) -> list[Signature]:
        flat: list[Signature] = []
        for member in map(self._member, members):
            if isinstance(member, group):
                flat += [
                    inner.clone(member.args, member.own_kwargs())
                    if member.args or member.own_kwargs()
                    else inner
                    for inner in member._flat()
                ]
            elif member.subtask_type != "chain" or member:
                flat.append(member)
        return flat

    def _calls(
        self, app: Sender, members: list[Signature], more: tuple[Any, dict[str, Any], dict[str, Any]],
        join_id: str | None, results: Members,
    ) -> Iterator[Call]:  # fmt: skip
        """The members' calls one by one; their results are appended."""
        args, kwargs, options = more
        patterns: dict[str, Any] = {}
        keys = new_keys(len(members))
        join_key = None if join_id is None else message.wire_id(join_id)
        for member, key in zip(members, keys, strict=True):
            place = len(results)
            if not member.options and type(member) is Signature:
                pattern = patterns.get(member.task)
                if pattern is None:
                    task = app.tasks.get(member.task)
                    pattern = patterns[member.task] = task is not None and (task.bulk(options) or False)
                if pattern is not False:
                    own_args, own_kwargs = member["args"], member["kwargs"]
                    if args or kwargs:
                        own_args, own_kwargs, _ = member.merged(args, kwargs)
                    seat = None if join_key is None else [join_key, place]
                    pattern.note_result(key, results)
                    yield pattern.call(key, own_args, own_kwargs, place, seat)
                    continue
            if join_id is not None:
                member = member.clone()
                joining.take_seat(member, join_id, place)
            with context.collecting() as calls:
                result = member.apply_async(args, kwargs, group_index=place, add_to_parent=False, **options)
            results.append(result)
            yield from calls

    def first_and_rest(self) -> tuple[Signature, list[dict[str, Any]]]:
        return self.passed_through()

    def own_kwargs(self) -> dict[str, Any]:
        return {name: value for name, value in self._inside.items() if name != _OWN}

    def freeze(self, _id: str | None = None, **options: Any) -> GroupResult:
        """Give every member its id; returns the result that the group will have. A generator is read for it."""
        group_id = _id or self.id or message.id_of(message.new_key())
        self.options["task_id"] = group_id
        options.pop("group_id", None)
        options.pop("group_index", None)
        results = [
            member.freeze(group_id=group_id, group_index=place, **options)
            for place, member in enumerate(self._flat())
        ]
        return GroupResult(group_id, results, None, self._app)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult:
        """Run the members here and now. See `Signature.apply`."""
        return cast("GroupResult", self.run_here(args, kwargs, options))

    # -- making others of it --------------------------------------------------------------------------------

    def clone(self, args: Any = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> group:
        """A copy, with more arguments or options; of a generator that nobody has read, one that shares it."""
        if self._stream is None:
            return super().clone(args, kwargs, **options)
        other = type(self)(app=self._app, **{**self.options, **options})
        other._stream = self._stream
        other["args"] = (*(args or ()), *self.args)
        other._inside.pop(_OWN)
        other._inside.update(kwargs or {})
        return other

    def link(self, callback: Any) -> Any:
        """Link the callback to the first member, as Celery does; returns the callback."""
        return self.tasks[0].link(callback) if self.tasks else callback

    def link_error(self, errback: Any) -> Any:
        """Link the error callback to every member; returns it. Callbacks of the group's own stand in for its members':
        it is one more of those."""
        if self.options.get("link_error"):
            return super().link_error(errback)
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
        """What follows a group gets the list of its results: a chord."""
        if not isinstance(other, Mapping):
            return NotImplemented
        step: Signature = maybe_signature(cast("Any", other), self._app)
        return chord_of(self.clone(), step.clone(), self._app)

    def __bool__(self) -> bool:
        return self.is_streamed or bool(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return "group(<generator>)" if self.is_streamed else f"group({self.tasks!r})"


def chord_of(header: group, body: Signature, app: Sender | None) -> Signature:
    """The chord of these two; its class is in a later module."""
    form: dict[str, Any] = {"header": header, "body": body, "kwargs": {}}
    return Signature.from_dict(
        {"task": "celery.chord", "args": (), "kwargs": form, "options": {}, "subtask_type": "chord"}, app
    )
