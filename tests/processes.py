"""Processes of this machine, for tests that kill some: read from /proc, only those below a process that we started."""

from __future__ import annotations

import time
from pathlib import Path


def call_here(_, function, *arguments, **options):
    """Call what torch_processes.run() calls in a process of its own, which imports torch for longer than it trains."""
    function(*arguments)


def wait_for(what, seconds: float = 180, pause: float = 0.05):
    """Return what ``what()`` returns once that is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := what():
            return value
        time.sleep(pause)
    raise AssertionError(f"waited {seconds} s in vain")


def alive(pid: int) -> bool:
    """Tell whether there is a process of this number."""
    return Path(f"/proc/{pid}").exists()


def parent(pid: int) -> int:
    """Return the number of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def workers(ancestor: int) -> dict[int, int]:
    """Return Spark's Python processes below a process, each with the CPU time it has used, in ticks."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The command's name stands in brackets and may hold anything.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        pid = int(folder.name)
        parents[pid] = int(fields[1])
        if b"pyspark" in command and b"python" in command.split(b"\0")[0] and fields[0] != "Z":
            ticks[pid] = int(fields[11]) + int(fields[12])
    return {pid: used for pid, used in ticks.items() if _below(pid, ancestor, parents)}


def busiest_worker(ancestor: int, ticks: int = 4) -> int | None:
    """Return the Python process below ``ancestor`` that used most CPU time in a moment; None where none used much."""
    before = workers(ancestor)
    time.sleep(0.3)
    used = {pid: now - before.get(pid, now) for pid, now in workers(ancestor).items()}
    most = max(used, key=lambda pid: used[pid], default=None)
    return most if most is not None and used[most] >= ticks else None


def _below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor
