"""The workflows of a seed: random trees of chains, groups and chords, and what must become of each.

A tree is drawn before anything is sent, so what it returns, which of its tasks run and whether it fails is known.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

#: A number that tasks return: a fold of their own number and of what came before, which tells any change of order.
_MODULUS = 2_147_483_629

#: What a tree returns is no number because something in it fails.
FAILED = object()


@dataclass(frozen=True)
class Leaf:
    """One task. `twin`: if it is a member of a chord and does not fail, it sends its message again while it runs."""

    number: int
    fails: bool = False
    twin: bool = False
    ignore_result: bool | None = None


@dataclass(frozen=True)
class Chain:
    """Steps, one after another."""

    steps: tuple[Tree, ...]


@dataclass(frozen=True)
class Group:
    """Members side by side, at least two."""

    members: tuple[Tree, ...]


@dataclass(frozen=True)
class Chord:
    """Members side by side, and a body behind them."""

    members: tuple[Tree, ...]
    body: Tree


Tree = Leaf | Chain | Group | Chord


@dataclass
class Workflow:
    """A tree with a last step behind it that takes its value, or an error callback where the tree fails."""

    number: int
    tree: Tree
    #: The leaves that run, and the value with which the last step is called (`FAILED`: it is not).
    runs: set[int] = field(default_factory=set[int])
    value: Any = FAILED


def draw(seed: int, count: int) -> list[Workflow]:
    """The workflows of a seed."""
    source = random.Random(f"workflows {seed}")
    numbers = iter(range(10**9))
    flows: list[Workflow] = []
    for number in range(count):
        failing = source.choice((0.0, 0.0, 0.05, 0.2))
        flow = Workflow(number, _tree(source, source.choice((1, 2, 2, 3)), numbers, failing))
        flow.value = _value(flow.tree, None, flow.runs)
        flows.append(flow)
    return flows


def _tree(source: random.Random, depth: int, numbers: Iterator[int], failing: float) -> Tree:
    """A tree, at most so many levels deep, in which so great a part of the tasks fails."""
    kind = source.choice(("chain", "group", "chord", "chord")) if depth else "leaf"
    if depth and source.random() < 0.2:
        kind = "leaf"

    def part() -> Tree:
        return _tree(source, depth - 1, numbers, failing)

    if kind == "chain":
        # Now and then a long one, whose steps wait in parts.
        steps = source.randint(13, 25) if source.random() < 0.05 else source.randint(2, 4)
        return Chain(tuple(part() if steps < 13 else _leaf(source, numbers, failing) for _ in range(steps)))
    if kind == "group":
        return Group(tuple(part() for _ in range(source.randint(2, 4))))
    if kind == "chord":
        return Chord(tuple(part() for _ in range(source.randint(1, 4))), part())
    return _leaf(source, numbers, failing)


def _leaf(source: random.Random, numbers: Iterator[int], failing: float) -> Leaf:
    return Leaf(
        next(numbers),
        source.random() < failing,
        source.random() < 0.1,
        source.choice((None, None, True, False)),
    )


# -- what becomes of it -----------------------------------------------------------------------------------------


def fold(number: int, before: Any) -> int:
    """What the task of that number returns behind that value."""
    if isinstance(before, list):
        for one in before:
            number = fold(number, one)
        return (number * 31 + 7) % _MODULUS
    return (number * 1_000_003 + (0 if before is None else before) + 1) % _MODULUS


def _value(tree: Tree, before: Any, runs: set[int]) -> Any:
    """What the tree returns; the numbers of those of its tasks that run are added."""
    match tree:
        case Leaf(number, fails):
            runs.add(number)
            return FAILED if fails else fold(number, before)
        case Chain(steps):
            for step in steps:
                before = _value(step, before, runs)
                if before is FAILED:
                    break
            return before
        case Group(members):
            return _values(members, before, runs)
        case Chord(members, body):
            values = _values(members, before, runs)
            return FAILED if values is FAILED else _value(body, values, runs)


def _values(members: tuple[Tree, ...], before: Any, runs: set[int]) -> Any:
    """The list of what the members return; members of groups among them stand in their places."""
    values: list[Any] = []
    for member in members:
        value = _value(member, before, runs)
        values += value if isinstance(member, Group) and value is not FAILED else [value]
    return FAILED if any(value is FAILED for value in values) else values
