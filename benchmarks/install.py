"""Make an environment for each compared system from `requirements/NAME.txt`; what is as it should be stays.

python benchmarks/install.py DIRECTORY [NAME ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: Of a program of its own, which asks for it by name.
APART = "memory_table"
NAMES = sorted(file.stem for file in HERE.glob("requirements/*.txt") if file.stem != APART)


def install(name: str, folder: Path) -> None:
    """Raises: CalledProcessError."""
    wanted = (HERE / "requirements" / f"{name}.txt").read_text()
    if "-e ." in wanted:
        wanted += (ROOT / "pyproject.toml").read_text()
    stamp = folder / name / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing {name} into {folder / name} ...", flush=True)
    subprocess.run([ROOT / "tools" / "venv.sh", folder / name], check=True, cwd=ROOT)
    pip = [folder / name / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", HERE / "requirements" / f"{name}.txt"], check=True, cwd=ROOT)
    stamp.write_text(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIRECTORY")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", default=NAMES, help="those that compare.py compares"
    )
    args = parser.parse_args()
    failed = []
    for name in args.names:
        try:
            install(name, args.folder.resolve())
        except subprocess.CalledProcessError as error:
            # Its column will say that it is missing; the others can be compared without it.
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
    sys.exit(not {"celeriac", APART}.isdisjoint(failed))


if __name__ == "__main__":
    main()
