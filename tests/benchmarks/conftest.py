"""Benchmarks are programs, not a package: their modules are found like those of a program."""

from __future__ import annotations

import sys

from tests.shape.source import ROOT

# At the end: no module of theirs takes the place of another.
sys.path.append(str(ROOT / "benchmarks"))
