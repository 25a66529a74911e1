"""Chain: steps that run one after another, each with the result of the one before.

The first step's message carries the others; each step's executor sends the next. So a chain needs no result store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

from celeriac.context import Sender
from celeriac.send_options import compact
from celeriac.workflow.signature import Signature, listed, maybe_signature


@Signature.register_type("chain")
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
        other = cls(form["kwargs"]["tasks"], app=app, **(form.get("options") or {}))
        other["args"] = tuple(form.get("args") or ())
        other["kwargs"].update({name: value for name, value in form["kwargs"].items() if name != "tasks"})
        other["immutable"] = bool(form.get("immutable", False))
        return other

    @property
    def tasks(self) -> list[Signature]:
        """The steps, in order."""
        return cast("list[Signature]", self.kwargs["tasks"])

    @property
    def app(self) -> Sender:
        if self._app is not None or not self.tasks:
            return super().app
        return self.tasks[0].app

    def _append_step(self, step: Signature) -> None:
        if isinstance(step, chain):
            if step.options and step.tasks:
                step.tasks[0].options.update(step.options)
            for inner in step.tasks:
                self._append_step(inner)
            return
        if self.tasks and self.tasks[-1].subtask_type == "group":
            raise NotImplementedError("a step after a group is a chord, which comes in a later version")
        self.tasks.append(step)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the first step, which carries the others. Returns the last step's result, its parents the others'.

        `link`, `task_id` and `ignore_result` are for the last step, `link_error` for all, the rest for the first.
        """
        if not self.tasks:
            return None
        if getattr(self.app.conf, "task_always_eager", False):
            return self.apply(args, kwargs, **options)
        first, rest, result, options = self._prepared(args, kwargs, options)
        first.apply_async(**options, **({"chain": rest} if rest else {}))
        return result

    def _prepared(
        self, args: Any, kwargs: Any, options: Mapping[str, Any]
    ) -> tuple[Signature, list[dict[str, Any]], Any, dict[str, Any]]:
        """The first step, the others as they travel (the next one last), the last one's result, and the options."""
        given = {**self.options, **options}
        steps = [step.clone() for step in self.tasks]
        steps[0] = steps[0].clone((*(args or ()), *self.args), {**self._own_kwargs(), **(kwargs or {})})
        last = steps[-1]
        for name in ("link", "task_id", "ignore_result"):
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
        result: Any = None
        for step in steps:
            own = step.freeze()
            own.parent, result = result, own
        return steps[0], [compact(step) for step in reversed(steps[1:])], result, given

    def _own_kwargs(self) -> dict[str, Any]:
        return {name: value for name, value in self.kwargs.items() if name != "tasks"}

    def freeze(self, _id: str | None = None, **options: Any) -> Any:
        """Give every step its id; returns the last one's result."""
        result: Any = None
        for step in self.tasks:
            own = step.freeze(_id if step is self.tasks[-1] else None, **options)
            own.parent, result = result, own
        return result

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the steps here and now, one after another."""
        given = {**self.options, **options}
        result: Any = None
        last = self.tasks[-1] if self.tasks else None
        for step in self.tasks:
            own = {"link": given["link"]} if step is last and "link" in given else {}
            before = (tuple(args or ()) + tuple(self.args)) if result is None else (result.get(),)
            current = step.clone(before, kwargs if result is None else None).apply(**own)
            current.parent, result = result, current
        return result

    def unchain_tasks(self) -> list[Signature]:
        """Copies of the steps, each linked to by nothing."""
        return [step.clone() for step in self.tasks]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with these arguments for the first step."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        joined = self.clone()
        step = maybe_signature(cast("Any", other), self._app)
        joined._append_step(step.clone())
        return joined

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks))
