"""Who sent whom: the tree of results below one, and a graph of it for Graphviz.

Loaded by name, when somebody asks for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TextIO

from celeriac.exceptions import IncompleteStream


def descend(root: Any, intermediate: bool) -> Iterator[tuple[Any, Any]]:
    """A result and all below it, with the one that is above each: `(None, root)` comes first.

    Whether a result has ended is asked when the next one is, so that the caller may wait in between.

    Raises: IncompleteStream: one has not ended; with `intermediate` it is passed over.
    """
    line: deque[tuple[Any, Any]] = deque([(None, root)])
    while line:
        parent, result = line.popleft()
        yield parent, result
        if result.ready():
            line.extend((result, child) for child in result.children or ())
        elif not intermediate:
            raise IncompleteStream(f"{result.id} has not ended, so what it has sent is not known yet")


def graph_of(root: Any, intermediate: bool, label: Callable[[Any], str] | None = None) -> DependencyGraph:
    """The graph of a result and all below it. Raises: as `descend`."""
    graph = DependencyGraph(label=label)
    for parent, result in descend(root, intermediate):
        graph.add_arc(result)
        if parent is not None:
            graph.add_edge(parent, result)
    return graph


class DependencyGraph:
    """Things, and for each those that came of it. Iterates over the things."""

    def __init__(
        self,
        items: Iterable[tuple[Hashable, Iterable[Hashable]]] = (),
        label: Callable[[Any], str] | None = None,
    ) -> None:
        """`label(thing)` is its text in `to_dot`; `str` by default."""
        self._below: dict[Any, list[Any]] = {}
        self._label = label or str
        self.update(items)

    def add_arc(self, thing: Hashable) -> None:
        """Add a thing."""
        self._below.setdefault(thing, [])

    def add_edge(self, above: Hashable, below: Hashable) -> None:
        """Say that the one came of the other; both are added where they are not there."""
        self.add_arc(below)
        self._below.setdefault(above, []).append(below)

    def update(self, items: Iterable[tuple[Hashable, Iterable[Hashable]]]) -> None:
        """Add things with those that came of them."""
        for above, those in items:
            self.add_arc(above)
            for below in those:
                self.add_edge(above, below)

    def connect(self, other: DependencyGraph) -> None:
        """Add another graph."""
        self.update(other.items())

    def topsort(self) -> list[Any]:
        """The things in such an order that each stands behind all that came of it. Raises: ValueError: a cycle."""
        done: dict[Any, bool] = {}
        order: list[Any] = []
        for start in self._below:
            line = [] if start in done else [(start, iter(self._below[start]))]
            done.setdefault(start, False)
            while line:
                thing, rest = line[-1]
                for below in rest:
                    if below not in done:
                        done[below] = False
                        line.append((below, iter(self._below[below])))
                        break
                    if not done[below]:
                        raise ValueError(f"{below} came of itself")
                else:
                    line.pop()
                    done[thing] = True
                    order.append(thing)
        return order

    def valency_of(self, thing: Hashable) -> int:
        """How many came of it, by whatever way, itself included."""
        seen = {thing}
        line = [thing]
        while line:
            fresh = [below for below in self._below[line.pop()] if below not in seen]
            seen.update(fresh)
            line += fresh
        return len(seen)

    def edges(self) -> list[tuple[Any, Any]]:
        """Every pair of a thing and one that came of it."""
        return [(above, below) for above, those in self._below.items() for below in those]

    def items(self) -> Iterator[tuple[Any, list[Any]]]:
        """Every thing with those that came of it."""
        return iter(self._below.items())

    def to_dot(self, file: TextIO) -> None:
        """Write it in Graphviz's language: `dot -Tsvg` draws it."""
        file.write("digraph dependencies {\n")
        for thing in self._below:
            file.write(f"  {_quoted(self._label(thing))};\n")
        for above, below in self.edges():
            file.write(f"  {_quoted(self._label(above))} -> {_quoted(self._label(below))};\n")
        file.write("}\n")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._below)

    def __len__(self) -> int:
        return len(self._below)

    def __contains__(self, thing: object) -> bool:
        return thing in self._below

    def __getitem__(self, thing: Hashable) -> list[Any]:
        return self._below[thing]

    def __repr__(self) -> str:
        return "\n".join(
            f"{self._label(above)} -> {', '.join(map(self._label, those))}"
            for above, those in self._below.items()
        )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
