"""Chain: steps that run one after another, each with the result of the one before.

The first step's message carries the others; each step's executor sends the next. So a chain needs no result store,
unless it is long: then a message carries a few steps, and the rest waits behind a join (docs/design/0005).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self, cast

from celeriac import message
from celeriac.context import Sender
from celeriac.send_options import compact
from celeriac.workflow import joining
from celeriac.workflow.signature import Signature, listed, maybe_signature, register_type

#: Steps that a message carries behind its own, where the chain is longer than `_LONGEST` steps.
_CARRIED: Final = 4
_LONGEST: Final = 12
#: What is said of a chain and means its last step.
_FOR_LAST: Final = ("link", "task_id", "ignore_result", "group_id", "group_index", "chord")


@register_type("chain")
class chain(Signature):
    """`chain(a.s(1), b.s(), c.s())`, or `a.s(1) | b.s() | c.s()`."""

    def __init__(self, *tasks: Any, app: Sender | None = None, **options: Any) -> None:
        steps = tasks[0] if len(tasks) == 1 and not isinstance(tasks[0], Mapping) else tasks
        super().__init__("celery.chain", (), {"tasks": []}, options, subtask_type="chain", app=app)
        for step in steps:
            self._append_step(maybe_signature(step, app).clone())

    @classmethod
    def from_steps(cls, *steps: Any, app: Sender | None = None) -> Self:
        """The chain of these signatures; chains among them are flattened."""
        return cls(list(steps), app=app)

    @classmethod
    def from_dict(cls, form: Mapping[str, Any], app: Sender | None = None) -> Signature:
        return cls(form["kwargs"]["tasks"], app=app, **(form.get("options") or {})).dressed_as(form)

    @property
    def tasks(self) -> list[Signature]:
        """The steps, in order."""
        return cast("list[Signature]", self.kwargs["tasks"])

    @property
    def app(self) -> Sender:
        return self.app_of(self.tasks)

    def _append_step(self, step: Signature) -> None:
        """Add a step. What follows a group makes a chord of it; what follows a chord belongs to its body."""
        if isinstance(step, chain):
            if step.options and step.tasks:
                step.tasks[0].options.update(step.options)
            for inner in step.tasks:
                self._append_step(inner)
            return
        steps = self.tasks
        if step.subtask_type == "group" and not step:
            return
        if step.subtask_type == "group":
            step = step.unrolled()
        if steps and steps[-1].subtask_type in ("group", "chord"):
            step = steps.pop() | step
            if steps and steps[-1].subtask_type == "chord":
                # A group that became a chord stands behind a chord: it is that chord's body.
                step = steps.pop() | step
        steps.append(step)

    # -- sending --------------------------------------------------------------------------------------------

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the first step, which carries the others. Returns the last step's result, its parents the others'.

        `link`, `task_id` and `ignore_result` are for the last step, `link_error` for all, the rest for the first.
        """
        if not self.tasks:
            return None
        if self.runs_here():
            return self.apply(args, kwargs, **options)
        given = {**self.options, **options}
        steps = [step.clone() for step in self.tasks]
        steps[0] = steps[0].clone((*(args or ()), *self.args), {**self.own_kwargs(), **(kwargs or {})})
        _hand_down(steps, given)
        result = _freeze(steps)
        steps[0].apply_async(**given, **_rest(self.app, steps[1:]))
        return result

    def first_and_rest(self) -> tuple[Signature, list[dict[str, Any]]]:
        """The first step, and the others as they travel. The ids are those of an earlier `freeze`."""
        steps = [step.clone() for step in self.tasks]
        _hand_down(steps, dict(self.options))
        first, rest = steps[0].first_and_rest()
        return first, [*_rest(self.app, steps[1:]).get("chain", ()), *rest]

    def freeze(self, _id: str | None = None, **options: Any) -> Any:
        """Give every step its id; returns the last one's result."""
        if not self.tasks:
            return None
        result = _freeze(self.tasks, _id or self.options.get("task_id"), options)
        self.options["task_id"] = result.id
        return result

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the steps here and now, one after another. See `Signature.apply`."""
        return self.run_here(args, kwargs, options)

    def unchain_tasks(self) -> list[Signature]:
        """Copies of the steps, each with the chain's error callbacks."""
        steps = [step.clone() for step in self.tasks]
        for errback in listed(self.options.get("link_error")):
            for step in steps:
                step.link_error(errback)
        return steps

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with these arguments for the first step."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        joined = self.clone()
        step = maybe_signature(cast("Any", other), self._app)
        joined._append_step(step.clone())
        return joined

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks))


def _hand_down(steps: list[Signature], given: dict[str, Any]) -> None:
    """Give the steps what is said of the whole chain; what is left in `given` is for the first."""
    last = steps[-1]
    for name in _FOR_LAST:
        if name in given:
            value = given.pop(name)
            if name == "link":
                for callback in listed(value):
                    last.link(callback)
            else:
                last.options[name] = value
    for errback in listed(given.pop("link_error", None)):
        for step in steps:
            step.link_error(errback)


def _freeze(
    steps: list[Signature], last_id: str | None = None, options: Mapping[str, Any] | None = None
) -> Any:
    """Give every step its id. Returns the last one's result, whose parents are the others'."""
    given = dict(options or {})
    own = {name: given.pop(name) for name in ("group_id", "group_index", "chord") if name in given}
    result: Any = None
    for step in steps:
        is_last = step is steps[-1]
        current = step.freeze(last_id, **given, **own) if is_last else step.freeze(None, **given)
        _attach(current, result)
        result = current
    return result


def _attach(result: Any, parent: Any) -> None:
    """Put a result behind its parent: before the first of those that belong to it."""
    while result.parent is not None:
        result = result.parent
    result.parent = parent


def _rest(app: Sender, steps: list[Signature]) -> dict[str, Any]:
    """The option with which the step before carries these: the next one last, as with Celery."""
    if not steps:
        return {}
    if len(steps) <= _LONGEST:
        return {"chain": [compact(step) for step in reversed(steps)]}
    # From the end: each part knows the join behind it.
    later = steps[_CARRIED:]
    steps = steps[:_CARRIED]
    _park(app, steps[-1], later)
    return {"chain": [compact(step) for step in reversed(steps)]}


def _park(app: Sender, before: Signature, steps: list[Signature]) -> None:
    """Let the steps wait behind a join at which the step before has the only seat."""
    starts: Iterable[int] = range(0, len(steps), _CARRIED + 1)
    parts = [steps[start : start + _CARRIED + 1] for start in starts]
    join_ids = [message.id_of(message.new_key()) for _ in parts]
    heads = [before, *(part[-1] for part in parts)]
    for head, part, join_id in reversed(list(zip(heads, parts, join_ids, strict=False))):
        head.options["chord"] = [join_id, 0]
        joining.open_join(app, join_id, 1, chain.from_steps(*part, app=app), joining.AS_VALUE)
