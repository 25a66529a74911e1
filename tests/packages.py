"""Installing what tests need of the system, where that is ours to do."""

from __future__ import annotations

import os
import shutil
import subprocess


def install(package: str) -> None:
    """Have apt install it, as root or by a sudo that asks for no password; else nothing happens."""
    installer = shutil.which("apt-get")
    become_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if installer is None or (become_root and shutil.which("sudo") is None):
        return
    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", package]):
        subprocess.run([*become_root, installer, *command], env=quietly, check=False)
