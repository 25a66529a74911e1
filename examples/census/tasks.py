"""The application and its one task.

Nothing here says where the messages are kept: that is CELERIAC_BROKER_URL, or `-b` of the worker, or the default,
the file `celeriac.sqlite` in the current directory. The same code runs on Redis.
"""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import TypedDict

from celeriac import Celeriac

# A queue of its own: a worker for the census takes nothing else, also on a server that others use.
app = Celeriac("census", task_default_queue="census")


class Count(TypedDict):
    """What one source file holds."""

    lines: int
    functions: int
    classes: int
    #: The top-level modules that it imports, each once; relative imports are left out.
    imports: list[str]
    #: The longest function: its lines and its name; 0 and "" where there is none.
    longest: tuple[int, str]


@app.task(ignore_result=False)
def count(path: str) -> Count:
    """Count what a source file holds. Raises: SyntaxError: it does not parse; OSError: it cannot be read."""
    source = Path(path).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the library's tests are odd on purpose
        nodes = list(ast.walk(ast.parse(source, path)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    imports = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imports |= {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    return {
        "lines": len(source.splitlines()),
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "imports": sorted({name.partition(".")[0] for name in imports}),
        "longest": max(((_length(node), node.name) for node in functions), default=(0, "")),
    }


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1
