"""`celeriac` and `python -m celeriac`: the command line."""

from __future__ import annotations

import sys

from celeriac import cli


def main() -> None:
    """Run the command that the process was started with, and exit with its code."""
    sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
