"""Limits of containers, read from control groups of both versions as Linux lays them out; and PySpark's own limit."""

import os
import subprocess
import sys

import pytest

from embedall_spark import cgroups

UNLIMITED = 9223372036854771712


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A function that lays out control groups: the text of /proc/self/cgroup, and files by their paths."""

    def lay_out(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "fs")
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    return lay_out


def test_version_2_in_a_container(groups):
    stat = "anon 300\nactive_file 40\ninactive_file 60\n"
    files = {"memory.max": 1000, "memory.current": 700, "memory.stat": stat, "cpu.max": "250000 100000"}
    groups("0::/\n", **files)
    assert (cgroups.memory_limit(), cgroups.free_container_memory(), cgroups.cores()) == (1000, 400, 3)


def test_version_2_the_tightest_group_counts(groups):
    groups("0::/pods/one\n", **{
        "memory.max": "max", "pods/memory.max": 5000, "pods/memory.current": 4900, "pods/one/memory.max": 1000,
        "pods/one/memory.current": 100, "cpu.max": "max 100000", "pods/cpu.max": "400000 100000",
        "pods/one/cpu.max": "max 100000", "others/memory.max": 1, "others/cpu.max": "1 100000",
    })  # fmt: skip
    assert (cgroups.memory_limit(), cgroups.free_container_memory(), cgroups.cores()) == (1000, 100, 4)


def test_version_1(groups):
    own = "7:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n0::/\n"
    groups(own, **{
        "memory/memory.limit_in_bytes": UNLIMITED, "memory/docker/a/memory.limit_in_bytes": 1000,
        "memory/docker/a/memory.usage_in_bytes": 900, "memory/docker/a/memory.stat": "inactive_file 1\n"
        "total_inactive_file 50\ntotal_active_file 25\n", "cpu,cpuacct/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/cpu.cfs_period_us": 100000, "cpu,cpuacct/docker/a/cpu.cfs_quota_us": 150000,
        "cpu,cpuacct/docker/a/cpu.cfs_period_us": 100000,
    })  # fmt: skip
    assert (cgroups.memory_limit(), cgroups.free_container_memory(), cgroups.cores()) == (1000, 175, 2)


def test_version_1_where_the_hosts_path_is_not_seen(groups):
    files = {"memory/memory.limit_in_bytes": 1000, "memory/memory.usage_in_bytes": 900}
    groups("4:memory:/docker/a\n", **files)
    assert cgroups.free_container_memory() == 100


def test_no_limits(groups):
    groups("0::/\n", **{"memory.max": "max", "cpu.max": "max 100000"})
    assert (cgroups.memory_limit(), cgroups.free_container_memory(), cgroups.cores()) == (None, None, 16)
    groups("4:memory:/\n", **{"memory/memory.limit_in_bytes": UNLIMITED})
    assert cgroups.memory_limit() is None


def test_what_pyspark_leaves_to_a_process():
    assert cgroups.free_process_memory() is None or cgroups.free_process_memory() > 0
    # As pyspark.worker_util.setup_memory_limits() does for spark.executor.pyspark.memory.
    code = (
        "import resource; from embedall_spark import cgroups\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "before = cgroups.free_process_memory(); held = bytearray(200 << 20)\n"
        "print((1 << 30) - before, before - cgroups.free_process_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    used, taken = map(int, done.stdout.split())
    assert used > 5 << 20 and abs(taken - (200 << 20)) < 1 << 20


def test_the_host_has_free_memory():
    assert 0 < cgroups.free_host_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
