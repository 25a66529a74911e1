"""What is read of the machine and of its control group."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from celeriac import machine


def test_the_quota_of_a_container_limits_the_cpus(tmp_path: Path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.usable_cpus(str(tmp_path)) == min(2, machine.usable_cpus("/nowhere"))
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cpus(str(tmp_path)) == machine.usable_cpus("/nowhere")


def test_the_memory_of_a_container_counts_where_it_is_less_than_the_machines(tmp_path: Path):
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\n")
    assert machine.available_memory(str(tmp_path), str(tmp_path)) == (400 * 1024, 1000 * 1024)
    (tmp_path / "memory.max").write_text("300000\n")
    (tmp_path / "memory.current").write_text("200000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert machine.available_memory(str(tmp_path), str(tmp_path)) == (150000, 300000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory(str(tmp_path), str(tmp_path)) == (400 * 1024, 1000 * 1024)
    assert machine.available_memory(str(tmp_path / "none"), str(tmp_path / "none")) is None


SMAPS = """\
1000-3000 r-xp 00000000 00:1f 42    /usr/lib/lib one.so
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
3000-4000 r--p 00002000 00:1f 42    /usr/lib/lib one.so
Anonymous:             4 kB
4000-5000 rw-p 00003000 00:1f 42    /usr/lib/lib one.so
Anonymous:             0 kB
5000-6000 r--p 00000000 00:00 0
Anonymous:             0 kB
6000-7000 r-xp 00000000 00:00 0     [vdso]
Anonymous:             0 kB
ffff8000-ffffa000 r--s 00000000 00:1f 43    /usr/share/zoneinfo
Anonymous:             0 kB
"""


def test_only_what_is_a_file_and_was_never_written_is_let_go():
    assert list(machine._unchanged(SMAPS.splitlines())) == [(0x1000, 0x3000), (0xFFFF8000, 0xFFFFA000)]


def test_what_was_let_go_is_there_again_when_it_is_needed():
    code = """
import json, ssl
from celeriac import machine

def mapped():
    with open("/proc/self/smaps_rollup") as file:
        return {line.split()[0]: int(line.split()[1]) for line in file if line.endswith("kB\\n")}

def of_files(found):
    # Not the share of it that counts as this process's own: that depends on who else has the files mapped.
    return found["Rss:"] - found["Anonymous:"]

before = mapped()
machine.unmap_unchanged()
after = mapped()
import decimal, sqlite3
ssl.create_default_context()
print(json.dumps([of_files(after) / of_files(before), after["Anonymous:"] >= before["Anonymous:"]]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left, is_kept = json.loads(run.stdout)
    assert left < 0.5 and is_kept
