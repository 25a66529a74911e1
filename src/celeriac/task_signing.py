"""What a task says of calls that are not made yet: its signatures. What type checkers know of calls is told in
docs/design/0008."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from celeriac import plugins
from celeriac.async_result import AsyncResult
from celeriac.context import Request
from celeriac.task_hooks import Bound
from celeriac.workflow.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")
Rest = ParamSpec("Rest")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
Q = TypeVar("Q")


class Signing(Bound, Generic[P, R]):
    """The part of a Task that makes signatures, and results of earlier calls."""

    _app: Any

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """A signature of the task: `task.signature((2, 2), countdown=1)`."""
        starkwargs.setdefault("app", self._app)
        return Signature(self, args, *starargs, **starkwargs)

    subtask = signature

    # All arguments, or all but the first one, two or three, or none: the rest comes from an earlier step.
    @overload
    def s(self) -> Signature: ...
    @overload
    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature: ...
    @overload
    def s(self: Signing[Concatenate[Any, Rest], R], *args: Rest.args, **kwargs: Rest.kwargs) -> Signature: ...
    @overload
    def s(
        self: Signing[Concatenate[Any, Any, Rest], R], *args: Rest.args, **kwargs: Rest.kwargs
    ) -> Signature: ...
    @overload
    def s(
        self: Signing[Concatenate[Any, Any, Any, Rest], R], *args: Rest.args, **kwargs: Rest.kwargs
    ) -> Signature: ...
    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature with these arguments; those in front may be left to come from an earlier step."""
        return Signature.of(self.name, args, kwargs, False, self._app)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """A signature with these arguments that takes no result of an earlier step."""
        return Signature.of(self.name, args, kwargs, True, self._app)

    def map(self, it: Iterable[Any]) -> Signature:
        """A signature that calls the task with each item, one after another, in one run."""
        return self._over("xmap", it)

    def starmap(self, it: Iterable[Any]) -> Signature:
        """`map`, where each item is a list of arguments."""
        return self._over("xstarmap", it)

    def chunks(self, it: Iterable[Any], n: int) -> Signature:
        """A signature that does so in parts of `n` items, each part in a run of its own."""
        return self._over("chunks", it, n)

    def _over(self, kind: str, *given: Any) -> Signature:
        made = plugins.load(f"celeriac.workflow.mapping:{kind}")
        return cast("Signature", made(self.signature(), *given, app=self._app))

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """The result of an earlier call, by its id."""
        return AsyncResult(task_id, task_name=self.name, app=self.app, **kwargs)

    def signature_from_request(
        self, request: Request | None = None, args: Any = None, kwargs: Any = None, queue: str | None = None,
        **extra_options: Any,
    ) -> Signature:  # fmt: skip
        """A signature that asks for the same call again, under the same id."""
        request = self.request if request is None else request
        options = request.as_execution_options() | extra_options
        queue = queue or request.delivery_info["routing_key"]
        if queue is not None:
            options["queue"] = queue
        return self.signature(
            request.args if args is None else args, request.kwargs if kwargs is None else kwargs, **options
        )

    subtask_from_request = signature_from_request
