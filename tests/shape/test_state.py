"""State belongs to objects: what a module holds is fixed when it has been imported."""

from __future__ import annotations

import ast

from tests.shape.source import functions, modules, shown, tree

#: Module -> registries that are filled while modules are imported.
REGISTRIES = {"celeriac.workflow.signature": {"TYPES"}}
#: Modules that may suppress everything, and why.
SUPPRESSING = {"celeriac.stored": "constructors of users' exceptions"}
#: Methods that change a container.
CHANGES = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove",
    "reverse", "setdefault", "sort", "update",
}  # fmt: skip


def test_no_function_changes_a_container_of_its_module() -> None:
    found: list[str] = []
    for name, path in modules().items():
        outer = bound(tree(path)) - REGISTRIES.get(name, set())
        for function in functions(path):
            changed = {changed_by(node) for node in ast.walk(function)}
            found += [f"{shown(path, function)} changes {one}" for one in outer & changed - own(function)]
    assert found == []


def test_nothing_broad_is_suppressed() -> None:
    found = [
        shown(path, node)
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if name not in SUPPRESSING and isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress")
        and {"Exception", "BaseException"} & {ast.unparse(argument) for argument in node.args}
    ]  # fmt: skip
    assert found == []


def bound(module: ast.Module) -> set[str]:
    """The names that a module's own statements bind."""
    names: set[str] = set()
    for node in module.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def own(function: ast.AST) -> set[str]:
    """The names that are a function's own: its parameters, and what it assigns."""
    names = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    return names | {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def changed_by(node: ast.AST) -> str:
    """The plain name whose container an expression changes; an empty text where it changes none."""
    target: ast.expr | None = None
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        target = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
        target = node.func.value
    return target.id if isinstance(target, ast.Name) else ""
