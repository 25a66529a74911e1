"""The process that starts, watches and replaces a worker's children, and runs no user code."""

from __future__ import annotations

import sys

if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    # msgspec takes from typing_extensions, where that is installed, what typing has too. It brings inspect and ast
    # with it: 1.1 MB of the supervisor's 12.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec as msgspec
    finally:
        del sys.modules["typing_extensions"]
