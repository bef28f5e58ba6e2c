"""What is refused before a training on GPUs, and what fits into their memory."""

import dataclasses
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from embedall_spark import devices
from embedall_spark.errors import ConfigError, ResourceError
from embedall_spark.train import plan, preflight, slice_state
from embedall_spark.train.config import TrainConfig
from embedall_spark.train.device import feed, methods, sgns_kernel, windows
from embedall_spark.train.device import preflight as device_preflight
from embedall_spark.train.device.link import Link

GIB = 1 << 30
CORPUS = plan.Corpus(10_000_000, 10**9, 8e8, 1000)


def session(**values):
    settings = {f"spark.{key.replace('__', '.')}": str(value) for key, value in values.items()}
    return SimpleNamespace(conf=SimpleNamespace(get=lambda key, otherwise=None: settings.get(key, otherwise)))


def report(free=100 * GIB, problem=""):
    return device_preflight.Report("host", "cuda:0", problem, "H200 1", free)


def test_the_device_follows_the_setting_the_executors_and_the_method(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cluster, with_gpus = session(master="yarn"), session(master="yarn", executor__resource__gpu__amount=1)
    auto, cuda = TrainConfig(device="auto"), TrainConfig(device="cuda")
    assert [preflight.device(one, TrainConfig()) for one in (on_cluster, with_gpus)] == ["cpu", "cpu"]
    assert [preflight.device(one, auto) for one in (on_cluster, with_gpus)] == ["cpu", "cuda"]
    assert preflight.device(with_gpus, TrainConfig(device="auto", sg=0)) == "cpu"
    assert preflight.device(with_gpus, TrainConfig(device="auto", method="glove")) == "cuda"
    with pytest.raises(ConfigError, match=r"device=cuda needs executors that have GPUs.*spark-gpu.conf"):
        preflight.device(on_cluster, cuda)
    assert preflight.device(session(master="local[2]"), auto) == "cpu"
    assert preflight.device(session(master="local[2]"), cuda) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert preflight.device(session(master="local[2]"), auto) == "cuda"


@pytest.mark.parametrize("options", [{"sg": 0}, {"hs": 1}])
def test_methods_without_a_kernel_are_refused(options):
    with pytest.raises(ValueError, match=r"device=cuda is for skip-gram"):
        TrainConfig(device="cuda", **options)


def test_a_model_that_does_not_fit_is_refused_with_the_workers_that_would():
    config = TrainConfig(vector_size=300, device="cuda")
    device_preflight.check([report()], CORPUS, config)
    # Two matrices of 10 million rows of 304 floats have 22.7 GiB.
    with pytest.raises(ResourceError, match=r"has 16.0 GiB.*needs 24.0 GiB.*set train.workers=4, each with a GPU"):
        device_preflight.check([report(), report(16 * GIB)], CORPUS, config)
    with pytest.raises(ResourceError, match=r"no number of workers is enough"):
        device_preflight.check([report(GIB)], CORPUS, config)
    fits = device_preflight.enough_workers(CORPUS, config, 16 * GIB)
    again = config.model_copy(update={"workers": fits})
    assert device_preflight.memory_bytes(CORPUS, again) <= 16 * GIB


def test_a_gpu_that_cannot_be_used_is_refused(monkeypatch):
    with pytest.raises(ResourceError, match=r"on host host no driver; install one"):
        device_preflight.check([report(), report(problem="no driver; install one")], CORPUS, TrainConfig(device="cuda"))
    assert device_preflight.report("host", 3)[:3] == ("host", "cpu", "")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert devices.training_device(3) == "cuda:3"

    def fail():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate it")

    monkeypatch.setattr(torch.cuda, "init", fail)
    row = device_preflight.report("host", 0)
    assert row.problem.startswith("torch cannot use the GPU (The NVIDIA driver on your system is too old (found ver")
    assert "; install a driver for CUDA" in row.problem
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.problem("cuda:2").startswith("there is no cuda:2, found 2 GPU(s); lower train.workers")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla K80")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (3, 7))
    assert "(Tesla K80) has compute capability 3.7, need 7.0" in devices.problem("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert devices.problem("cuda:0") is None
    monkeypatch.setitem(sys.modules, "triton", None)
    assert devices.problem("cuda:0").startswith("Triton cannot be imported")


@pytest.mark.parametrize(
    ("names", "backend"), [(["H200 a", "H200 b"], "nccl"), (["H200 a", "H200 a"], "gloo"), (["", "H200 b"], "gloo")]
)
def test_workers_with_a_gpu_each_exchange_by_nccl(monkeypatch, names, backend):
    from embedall_spark.train.device import link

    ring = SimpleNamespace(rank=0, size=2, group="ring", share=lambda _: names)
    monkeypatch.setattr(link, "_nccl", lambda *_: "nccl")
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert Link(ring, torch.device("cpu"), 9).backend == backend


class Group:
    """Sends to itself."""

    def alltoall_base(self, received, sent, receives, sends):
        self.sizes = (receives, sends)
        return SimpleNamespace(wait=lambda: received.copy_(sent))


def test_gloo_goes_through_the_host_where_the_model_is_on_gpus():
    ring = SimpleNamespace(rank=1, size=3, group=Group(), share=lambda _: [""] * 3)
    link = Link(ring, torch.device("cpu"), 9)
    for link._through_host in (False, True):
        incoming, outgoing = torch.zeros(2, 4), torch.arange(8.0).view(2, 4)
        wait = link.exchange(outgoing, incoming)
        assert not incoming.any()
        wait()
        assert torch.equal(incoming, outgoing)
        assert ring.group.sizes == ([0, 0, 8], [8, 0, 0])
    link.close()


def test_batches_are_copied_ahead_but_not_far(monkeypatch):
    """The order of calls on a GPU, told by streams that only write down what is asked of them."""
    calls = []

    class Stream:
        def wait_stream(self, other):
            calls.append("wait")

    class Event:
        def record(self, stream):
            calls.append("record")

        def synchronize(self):
            calls.append("synchronize")

    computes = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computes)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: calls.append("held"), raising=False)
    ahead = feed.Feed(torch.device("cuda"))
    ahead.device = torch.device("cpu")
    (tensor,) = ahead.put(np.arange(3))
    assert tensor.tolist() == [0, 1, 2] and calls == ["wait", "held"]
    calls.clear()
    for _ in range(5):
        ahead.end_batch()
    assert calls == ["record"] * 4 + ["synchronize", "record", "synchronize"]


def test_programs_fill_the_device_but_not_a_small_model(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    gpu = torch.device("cuda")
    # As many as the registers allow that the compiler reports.
    assert sgns_kernel.count_programs(gpu, 100_000, 128, 5) == 132 * 19
    assert sgns_kernel.count_programs(gpu, 100_000, 304, 5) == 132 * 6
    assert [sgns_kernel.count_programs(gpu, rows, 128, 5) for rows in (1000, 2)] == [250, 1]
    assert sgns_kernel.count_programs(gpu, 100_000, 128, 5, 2.0) == sgns_kernel._MOST_ON_A_ROW / 2


def test_the_hottest_row():
    counts = np.array([600, 200, 200])
    assert windows.hottest_row(counts, 0, 1.0, 5) == pytest.approx(0.6 + 5 * 0.6)
    assert windows.hottest_row(counts, 0, 0.0, 5) == pytest.approx(0.6 + 5 / 3)
    assert windows.hottest_row(counts, 0, 1.0, 5, 8) == 6
    # Subsampling takes more of it than of the others.
    sample = 0.1
    assert windows.hottest_row(counts, sample, 0.0, 0) < 0.6


def test_the_spool_holds_tokens_on_gpus():
    config = TrainConfig(workers=4)
    assert plan.spool_bytes(CORPUS, config, "cuda") < plan.spool_bytes(CORPUS, config)
    assert plan.make_plan(CORPUS, config, 1, "cuda").device == "cuda"


def test_a_short_training_has_many_batches():
    def size(tokens, epochs):
        whole = plan.Plan(plan.Corpus(10, tokens, tokens, 1), 1, 1, 1, 1)
        return methods._batch_size(SimpleNamespace(tokens=tokens, plan=whole, config=SimpleNamespace(epochs=epochs)))

    assert size(20_000_000, 5) == 500_000
    assert (size(10**9, 5), size(1000, 5)) == (1 << 20, 1 << 10)


def test_more_than_eight_workers_train_on_streams():
    config = TrainConfig(workers=9, vector_size=16)
    corpus = plan.Corpus(360, 10**6, 8e5, 100)
    nine = plan.make_plan(corpus, config, 1, "cuda")
    counts = np.full(360, 100)
    shards = plan.Shards(*plan.assign_shards(counts, 9, 0))
    slice_ = slice_state.Slice("run", "vocabulary", "folder", None, nine, config, 0, 0)
    trainer = methods.trainer(slice_, counts, shards, 2, 2, torch.device("cpu"))
    assert isinstance(trainer, methods.StreamTrainer) and not nine.has_tokens(config)
    assert dataclasses.replace(nine, workers=8).has_tokens(config)
    (batch,) = trainer.batches([np.array([2, 1, 7, 3, 1, 9], np.int32)])
    prepared = trainer.prepare(batch, tuple(map(torch.from_numpy, batch.arrays)))
    inputs, outputs = torch.ones(40, 16), torch.zeros(20, 16)
    trainer.begin_part(2 * 5, 0)
    assert trainer.train(prepared, 0, inputs, outputs, 0.0)[:, 0].sum() == 2
    assert outputs[2].any() and outputs[3].any()
