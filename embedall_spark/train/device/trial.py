"""Rates of skip-gram's kernel on a device, on sequences that are drawn from a seed; needs neither Spark nor data."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from embedall_spark.train import aligned_rows
from embedall_spark.train.device import batches, feed, sgns_kernel, windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

WINDOW, NEGATIVE, BATCH_SIZE = 5, 5, 32
_SAMPLE, _ALPHA, _LENGTH, _BLOCK = 1e-3, 0.025, 40, 1 << 16


class Trial(NamedTuple):
    """A model on the device, and blocks of sequences in host memory whose tokens follow Zipf's law."""

    device: torch.device
    inputs: Tensor
    outputs: Tensor
    negatives: Tensor
    windower: windows.Windower
    blocks: list[Any]
    programs: int

    def train(self, groups: sgns_kernel.Groups, number: int) -> Tensor:
        """Train on groups once; return the kernel's figures."""
        cursor = number * 7919 % len(self.negatives)
        model = (self.inputs, self.outputs, self.negatives)
        return sgns_kernel.train(groups, 0, *model, cursor, _ALPHA, NEGATIVE, BATCH_SIZE, WINDOW, self.programs)

    def draw(self, *tensors: Tensor) -> sgns_kernel.Groups:
        """Draw the windows of sequences on the device."""
        return self.windower.draw(windows.Tokens(*tensors))


def make(device: torch.device, vocabulary: int, dim: int, tokens: int, seed: int = 1) -> Trial:
    """Return a model of ``vocabulary`` rows of ``dim`` floats, padded, and ``tokens`` tokens in sequences of 40."""
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1, vocabulary + 1)
    drawn = np.searchsorted(np.cumsum(share) / share.sum(), random.random(tokens)).astype(np.int32)
    counts = np.maximum(1, share / share.sum() * 1e9).astype(np.int64)
    local = np.arange(vocabulary, dtype=np.int32)
    padded = aligned_rows.padded_length(dim)
    table = aligned_rows.negative_table(counts, 0.75, min(1 << 22, 16 * vocabulary), seed)
    windower = windows.make(counts, np.zeros_like(local), local, _SAMPLE, WINDOW, True, seed, device)
    inputs = (torch.rand((vocabulary, padded), device=device) - 0.5) / dim
    inputs[:, dim:] = 0
    hottest = windows.hottest_row(counts, _SAMPLE, 0.75, NEGATIVE)
    programs = sgns_kernel.count_programs(device, vocabulary, padded, NEGATIVE, hottest)
    blocks = []
    for number, first in enumerate(range(0, tokens, _BLOCK)):
        part = drawn[first : first + _BLOCK]
        offsets = np.append(np.arange(0, len(part), _LENGTH), len(part))
        ids = random.integers(2**62, size=len(offsets) - 1)
        blocks.append(SimpleNamespace(number=number, ids=ids, offsets=offsets, tokens=part))
    model = (inputs, torch.zeros_like(inputs), torch.from_numpy(table).to(device))
    return Trial(device, *model, windower, blocks, programs)


def resident_rate(trial: Trial, seconds: float, size: int = batches.SIZE) -> tuple[float, float]:
    """Return pairs a second where windows lie in the device's memory already, and the mean contexts of a group."""
    groups = [trial.draw(*feed.Feed(trial.device).put(*b.arrays)) for b in batches.of_blocks(trial.blocks, size)]
    pairs, rate = _rate(trial, seconds, lambda number: trial.train(groups[number % len(groups)], number))
    once = sum(int(one.bounds[1]) for one in groups)
    each = float(sum(trial.train(one, 0).sum(0)[0] for one in groups)) / max(1, once)
    return rate, each if pairs else 0.0


def pinned_rate(trial: Trial, seconds: float, size: int = batches.SIZE) -> float:
    """Return pairs a second where tokens lie in pinned memory of the host, and windows are drawn on the device."""
    held = [tuple(map(torch.from_numpy, b.arrays)) for b in batches.of_blocks(trial.blocks, size)]
    if trial.device.type == "cuda":
        held = [tuple(tensor.pin_memory() for tensor in tensors) for tensors in held]
    ahead = feed.Feed(trial.device)

    def step(number: int) -> Tensor:
        tensors = (tensor.to(trial.device, non_blocking=True) for tensor in held[number % len(held)])
        figures = trial.train(trial.draw(*tensors), number)
        ahead.end_batch()
        return figures

    return _rate(trial, seconds, step)[1]


def end_to_end_rate(trial: Trial, seconds: float, size: int = batches.SIZE) -> float:
    """Return pairs a second from blocks in ordinary memory on, by all that a worker does with them."""
    ahead = feed.Feed(trial.device)

    def again() -> Any:
        while True:
            yield from batches.of_blocks(trial.blocks, size)

    endless = again()

    def step(number: int) -> Tensor:
        figures = trial.train(trial.draw(*ahead.put(*next(endless).arrays)), number)
        ahead.end_batch()
        return figures

    return _rate(trial, seconds, step)[1]


def bandwidth(device: torch.device, size: int = 1 << 30) -> float:
    """Return the bytes a second that the device reads and writes when it copies ``size`` bytes in its memory."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    _wait(device)
    since = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    _wait(device)
    return 20 * size / (time.perf_counter() - since)


def bound(bytes_per_second: float, dim: int, contexts: float) -> float:
    """Return the pairs a second that the memory allows if a group reads and writes each of its rows once."""
    return bytes_per_second * contexts / (8 * dim * (contexts + 1 + NEGATIVE))


def _rate(trial: Trial, seconds: float, step: Callable[[int], Tensor]) -> tuple[float, float]:
    """Return the pairs of repeated steps and their rate, after a first one that compiles the kernel."""
    step(0)
    _wait(trial.device)
    since, number = time.perf_counter(), 0
    sums = torch.zeros((), dtype=torch.float64, device=trial.device)
    while number == 0 or time.perf_counter() - since < seconds:
        number += 1
        sums += step(number)[:, 0].sum(dtype=torch.float64)
        # Launches are faster than the device: without a wait the loop would only fill its queue.
        if number % 8 == 0:
            _wait(trial.device)
    _wait(trial.device)
    pairs = float(sums)
    return pairs, pairs / (time.perf_counter() - since)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
