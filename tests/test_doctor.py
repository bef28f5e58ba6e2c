"""The doctor: this machine is well, and each illness is told with its cure."""

import shutil
import socket
import sys

import pytest
import torch

from embedall_spark import devices, doctor, files


def test_this_machine_is_well(spark):
    actual = list(doctor.checks())
    assert [check.name for check in actual if not check.ok] == []
    assert all(check.detail and not check.fix for check in actual)
    assert {"Python", "Java", "Delta", "MLflow", "scratch folder"} <= {check.name for check in actual}
    # A session that ran before is left running.
    assert spark.range(2).count() == 2


def ill(look):
    check = doctor._check("it", look)
    assert not check.ok
    return check


def test_java(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = ill(doctor.java)
    assert check.detail == "found no Java (PATH), need Java 17 or 21"
    assert check.fix.startswith("install one: Debian/Ubuntu: sudo apt-get install")


def test_python_and_spark(monkeypatch):
    import pyspark

    monkeypatch.setattr(pyspark, "__version__", "3.5.1")
    assert ill(doctor.spark).detail == "found Spark 3.5.1, need 4.1"
    monkeypatch.setitem(sys.modules, "pyspark", None)
    assert ill(doctor.spark).fix == "pip install 'embedall_spark[local]'"

    class Version(tuple):
        major, minor = 3, 9

    monkeypatch.setattr(sys, "version_info", Version((3, 9)))
    assert ill(doctor.python).detail == "found Python 3.9, need 3.11 to 3.13"


def test_memory_disk_and_scratch(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_MEMORY", 1 << 50)
    assert "need 1048576" in ill(doctor.memory).detail
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check = ill(doctor.scratch)
    assert "1.0 GiB free, need 5" in check.detail
    assert "TMPDIR" in check.fix

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(files, "scratch", refuse)
    assert "cannot be written: read-only" in ill(doctor.scratch).detail


def test_store_kernels_and_network(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://server")
    check = ill(doctor.mlflow)
    assert check.detail.startswith("the MLflow store nonsense://server cannot be used")
    assert "MLFLOW_TRACKING_URI" in check.fix
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(doctor.user_cache, "folder", lambda _: None)
    assert "NUMBA_CACHE_DIR" in ill(doctor.kernels).fix

    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert "/etc/hosts" in ill(doctor.network).fix


def test_an_unforeseen_failure_is_one_line_too():
    def broken():
        raise KeyError("odd")

    assert ill(broken).detail == "KeyError: 'odd'"


def test_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(devices, "problem", lambda _: "torch cannot use the GPU; install a driver")
    assert ill(doctor.gpu)[2:] == ("torch cannot use the GPU", "install a driver")
    monkeypatch.setattr(devices, "problem", lambda _: None)
    monkeypatch.setattr(devices, "memory", lambda _: devices.Memory("H200 1", 100 << 30, 140 << 30))
    monkeypatch.setattr(doctor, "training_rate", lambda *_: "trains")
    assert doctor.gpu() == "H200, 100 of 140 GiB free; trains"


def test_the_rate_of_training(monkeypatch):
    pytest.importorskip("triton")
    from embedall_spark.train.device import trial

    # In Triton's interpreter.
    assert doctor.training_rate("cpu", 0.0, 20, 60).endswith("pairs/s at 128 dimensions")
    monkeypatch.setattr(trial, "make", lambda *_: 1 / 0)
    detail = ill(lambda: doctor.training_rate("cpu", 1)).detail
    assert "the kernel of skip-gram fails on cpu: ZeroDivisionError" in detail


@pytest.mark.parametrize("look", [doctor.cores, doctor.gpu, doctor.memory])
def test_figures(look):
    assert look()
