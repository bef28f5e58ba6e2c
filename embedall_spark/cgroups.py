"""What this process may use: memory and cores, with the limits of its container's control groups, versions 1 and 2."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores() -> int:
    """Return the cores that this process may use, counted as Java does: its affinity, and quotas rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu"):
        for quota, period in _quotas(group):
            count = min(count, max(1, -(-quota // period)))
    return count


def memory_limit() -> int | None:
    """Return the bytes that the groups of this process may use; None: as many as the host has."""
    limits = [limit for group in _groups("memory") if (limit := _limit(group)) is not None]
    return min(limits, default=None)


def free_container_memory() -> int | None:
    """Return the bytes that the groups of this process can still allocate; None: they have no limit."""
    free = [_free(group, limit) for group in _groups("memory") if (limit := _limit(group)) is not None]
    return min(free, default=None)


def free_host_memory() -> int:
    """Return the bytes that the host can still give to processes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def free_process_memory() -> int | None:
    """Return the bytes of addresses that this process can still use; None: it has no limit of its own.

    PySpark sets that limit: a task's share of spark.executor.pyspark.memory.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return max(0, limit - used)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's groups that can be seen from here, its own and those above."""
    with suppress(OSError):
        for line in _OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            # Version 2 has one tree, version 1 one for each controller. A container may not see the host's path.
            for root in {ROOT / controllers, ROOT / controller} if controllers else {ROOT, ROOT / "unified"}:
                inside = root / path.lstrip("/")
                yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(root))


def _limit(group: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = _read(group / name)
        # Version 1 has no word for "unlimited", but the greatest number of pages.
        if text.isdigit() and int(text) < 1 << 62:
            return int(text)
    return None


def _free(group: Path, limit: int) -> int:
    used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes") or "0"
    parts = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    # The file cache counts as used, but is freed on demand. Version 1 has sums over the groups below as well.
    names = ("inactive_file", "active_file")
    cache = sum(int(parts.get(f"total_{name}", parts.get(name, 0))) for name in names)
    return max(0, limit - int(used) + cache)


def _quotas(group: Path) -> Iterator[tuple[int, int]]:
    """Yield the microseconds of a group's quota and its period, if there is one."""
    if (parts := _read(group / "cpu.max").split()) and parts[0].isdigit():
        yield int(parts[0]), int(parts[1])
    quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    # Version 1 says -1 where there is none.
    if quota.isdigit() and period.isdigit():
        yield int(quota), int(period)


def _read(file: Path) -> str:
    """Return a file's text; empty where it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
