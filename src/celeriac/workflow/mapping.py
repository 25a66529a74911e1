"""One message for many calls of a task: `task.map(items)`, `task.starmap(items)`, `task.chunks(items, n)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from celeriac.context import Sender
from celeriac.result_sets import GroupResult
from celeriac.workflow.group import group
from celeriac.workflow.signature import Signature, maybe_signature, register_type


class _Map(Signature):
    """Calls of one task, one after another, in one run."""

    task_name = "celery.map"
    kind = "xmap"

    def __init__(self, task: Any, it: Iterable[Any], app: Sender | None = None, **options: Any) -> None:
        called: Any = maybe_signature(task)
        super().__init__(self.task_name, (), {"task": called, "it": list(it)}, options,
                         immutable=True, subtask_type=self.kind, app=app)  # fmt: skip

    @classmethod
    def from_dict(cls, form: Mapping[str, Any], app: Sender | None = None) -> Signature:
        parts = form["kwargs"]
        made = cls(maybe_signature(parts["task"], app), parts["it"], app=app, **(form.get("options") or {}))
        made["immutable"] = bool(form.get("immutable", False))
        return made

    def __repr__(self) -> str:
        return f"[{self.kwargs['task'].task}(x) for x in {self.kwargs['it']!r}]"


@register_type("xmap")
class xmap(_Map):
    """`[task(item) for item in items]` as one task: `task.map(items)`."""


@register_type("xstarmap")
class xstarmap(_Map):
    """`[task(*item) for item in items]` as one task: `task.starmap(items)`."""

    task_name = "celery.starmap"
    kind = "xstarmap"


@register_type("chunks")
class chunks(Signature):
    """Many calls in parts of `n`, each part one message: `task.chunks(items, n)`."""

    def __init__(
        self, task: Any, it: Iterable[Any], n: int, app: Sender | None = None, **options: Any
    ) -> None:
        called: Any = maybe_signature(task)
        super().__init__("celery.chunks", (), {"task": called, "it": it, "n": n}, options, immutable=True,
                         subtask_type="chunks", app=app)  # fmt: skip

    @classmethod
    def from_dict(cls, form: Mapping[str, Any], app: Sender | None = None) -> Signature:
        parts = form["kwargs"]
        called = maybe_signature(parts["task"], app)
        return cls(called, parts["it"], parts["n"], app=app, **(form.get("options") or {}))

    def group(self) -> group:
        """The parts, as a group."""
        called, n = maybe_signature(self.kwargs["task"], self._app), self.kwargs["n"]
        return group(
            (xstarmap(called, part, app=self._app) for part in _parts(iter(self.kwargs["it"]), n)),
            app=self._app,
        )

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the parts."""
        return self.group().apply_async(args, kwargs, **{**self.options, **options})

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult:
        """Run the parts here and now."""
        return self.group().apply(args, kwargs, **{**self.options, **options})

    def __call__(self, **options: Any) -> Any:
        """Send the parts."""
        return self.apply_async(**options)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Sender | None = None) -> Any:
        """Send the parts of these calls."""
        return cls(task, it, n, app=app)()


def _parts(items: Iterator[Any], n: int) -> Iterator[list[Any]]:
    while part := list(islice(items, n)):
        yield part
