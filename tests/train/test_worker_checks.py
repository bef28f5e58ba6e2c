"""What is refused before a training by what its workers report and by Spark's settings."""

from types import SimpleNamespace

import pytest

from embedall_spark import executor_memory, extras
from embedall_spark.errors import ConfigError, ResourceError
from embedall_spark.train import plan, preflight, worker_probe
from embedall_spark.train.config import TrainConfig
from embedall_spark.train.worker_probe import Report

GIB = 1 << 30
CORPUS = plan.Corpus(1_000_000, 10**8, 8e7, 100)
CONFIG = TrainConfig(workers=2, vector_size=300, spool_bytes=GIB)
NEED = preflight.memory_bytes(CORPUS, CONFIG)


def session(**values):
    settings = {f"spark.{key.replace('__', '.')}": str(value) for key, value in values.items()}
    return SimpleNamespace(conf=SimpleNamespace(get=lambda key, otherwise=None: settings.get(key, otherwise)))


def report(**values):
    usual = {"host": "a", "executor": "a 1", "address": "10.0.0.1", "problems": [], "memory": 64 * GIB}
    usual |= {"container": None, "process": None, "disk": 64 * GIB, "folder": "/tmp", "cores": 4, "gpu": None}
    usual |= {"missing": None}
    return Report(**usual | values)


def check(monkeypatch, reports, **settings):
    monkeypatch.setattr(preflight, "_probe", lambda *_: reports)
    preflight.check(session(**{"master": "spark://a:7077", **settings}), CORPUS, CONFIG)


@pytest.mark.parametrize(
    ("settings", "setting", "gib"),
    [
        ({"master": "yarn", "executor__memory": "4g", "executor__memoryOverhead": "8g"}, executor_memory.OVERHEAD, 8),
        ({"master": "yarn", "executor__memory": "40g"}, executor_memory.OVERHEAD, 4),
        ({"master": "yarn", "executor__memory": "1g"}, executor_memory.OVERHEAD, 384 / 1024),
        (
            {"master": "yarn", "executor__memory": "10g", "executor__memoryOverheadFactor": "0.5"},
            executor_memory.OVERHEAD, 5,
        ),
        (
            {"master": "k8s://https://x", "executor__memory": "10g", "kubernetes__memoryOverheadFactor": "0.4"},
            executor_memory.OVERHEAD, 4,
        ),
        (
            {"master": "yarn", "executor__pyspark__memory": "3072", "executor__memoryOverhead": "8g"},
            executor_memory.PYSPARK, 3,
        ),
    ],
)  # fmt: skip
def test_the_room_of_python_in_a_container(settings, setting, gib):
    room = executor_memory.of_python(session(**settings))
    assert room is not None and (room.setting, round(room.bytes / GIB, 3)) == (setting, gib)


def test_nothing_holds_python_to_it_elsewhere():
    assert executor_memory.of_python(session(master="spark://a:7077", executor__memoryOverhead="1g")) is None
    sizes = ("512m", "2g", "512mb", "100", "1t", "3 gib", "what")
    expected = [512 << 20, 2 << 30, 512 << 20, 100 << 20, 1 << 40, 3 << 30, 0]
    assert [executor_memory.parse(size) for size in sizes] == expected


def test_memory_of_hosts_containers_and_processes(monkeypatch):
    one, other = report(), report(host="b", executor="b 1")
    check(monkeypatch, [one, other])
    # Two workers on one host need twice as much.
    check(monkeypatch, [one._replace(memory=NEED), other])
    with pytest.raises(ResourceError, match=r"host a has .* of free memory; 2 worker\(s\) need"):
        check(monkeypatch, [one._replace(memory=NEED)] * 2)
    # A container is that of one executor, whose host may have several.
    check(monkeypatch, [one._replace(container=NEED), one._replace(container=NEED, executor="a 2")])
    with pytest.raises(
        ResourceError, match=r"the container on host a has .*2 worker.*raise spark.executor.memoryOverhe"
    ):
        check(monkeypatch, [one._replace(container=NEED)] * 2)
    with pytest.raises(ResourceError, match=r"may use .* of its share of spark.executor.pyspark.memory; 1 worker\(s\)"):
        check(monkeypatch, [one, other._replace(process=NEED - 1)])
    yarn = {"master": "yarn", "executor__memoryOverhead": f"{NEED // (1 << 20) + 1}m"}
    check(monkeypatch, [one, other], **yarn)
    with pytest.raises(
        ResourceError, match=r"spark.executor.memoryOverhead leaves .*; 2 worker.*raise spark.executor.m"
    ):
        check(monkeypatch, [one] * 2, **yarn)
    with pytest.raises(ResourceError, match=r"pyspark.memory leaves 0.1 GiB .*raise spark.executor.pyspark.memory, or"):
        check(monkeypatch, [one, other], **yarn, executor__pyspark__memory="100m")


def test_workers_that_cannot_connect(monkeypatch):
    there = report(host="b", executor="b 1", problems=["b (10.0.0.2) cannot connect to port 40001 of a (10.0.0.1): no"])
    with pytest.raises(ResourceError, match=r"cannot connect to port 40001 of a .*ip_local_port_range.*clusters.md"):
        check(monkeypatch, [report(), there])
    with pytest.raises(ResourceError, match=r"host b reaches the others only as ::1.*SPARK_LOCAL_IP"):
        check(monkeypatch, [report(), there._replace(address="::1")])


def test_workers_that_lack_torch(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(extras, "find_spec", lambda _: None)
        there = report(host="b", missing=extras.missing(extras.TORCH))
    with pytest.raises(ConfigError, match=r"workers=2 needs torch, which .* on host b lacks; pip install .*\[torch\]'"):
        check(monkeypatch, [report(), there])


def test_executors_that_come_late_are_waited_for(monkeypatch):
    """In the first minute of a session; later there are too few."""
    answers = [None, None, [report()]]
    monkeypatch.setattr(preflight, "_probe", lambda *_: answers.pop(0))
    monkeypatch.setattr(preflight, "_PAUSE", 0.0)
    cluster = session(master="spark://a:7077")
    monkeypatch.setattr(preflight, "_started", lambda _: preflight.time.time())
    preflight.check_workers(cluster, CONFIG)
    assert not answers
    answers[:] = [None]
    monkeypatch.setattr(preflight, "_started", lambda _: 0.0)
    with pytest.raises(ResourceError, match="needs 2 task slots"):
        preflight.check_workers(cluster, CONFIG)
    # One worker needs nobody else.
    preflight.check_workers(cluster, TrainConfig())


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({"master": "local[6]"}, 6),
        ({"master": "spark://a:7077"}, 12),
        ({"master": "spark://a:7077", "executor__cores": 4}, 4),
        ({"master": "spark://a:7077", "executor__cores": 32}, 16),
        ({"master": "yarn"}, 1),
        ({"master": "yarn", "executor__cores": 3}, 3),
    ],
)
def test_threads_of_one_worker_are_the_cores_of_its_executor(monkeypatch, settings, threads):
    monkeypatch.setattr(worker_probe, "cores", lambda _: 16)
    monkeypatch.setattr(preflight.cluster_slots, "total", lambda _: 12)
    assert preflight.threads(session(**settings), TrainConfig()) == threads
    assert preflight.threads(session(**settings), TrainConfig(threads=5)) == 5
