"""The training loop: plain torch in one or several processes, without Spark; resumes after the last finished epoch."""

from __future__ import annotations

import io
import json
import math
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from embedall_spark import cgroups, devices, files, randomness, torch_processes
from embedall_spark.errors import ConfigError, TrainingDiverged
from embedall_spark.images import backbones, pixel_shards, trainable_networks
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.images.train_config import TrainConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.images.pixel_shards import PixelData
    from embedall_spark.images.trainable_networks import Header

RESULT, HISTORY = "backbone.pt", "history.json"
_WARMUP = 0.3  # share of a one-cycle schedule in which the rate rises
_SHUFFLE, _AUGMENT, _INIT = 1, 2, 3  # keys of the random streams

Epoch = dict[str, float]


class _ProcessGroup(NamedTuple):
    """This process among those that train together."""

    rank: int
    world_size: int
    device: torch.device


def fit(pictures: str, folder: str, config_json: str, header_json: str) -> list[Epoch]:
    """Train, or resume training; return the figures of each epoch. Called in every process.

    Args:
        pictures: folder of the stage that pixel_shards.converter() has filled.
        folder: where checkpoints go, and RESULT at the end; all processes share it.
        config_json: TrainConfig as JSON.
        header_json: trainable_networks.Header of the network, as JSON.

    Raises:
        TrainingDiverged: the loss is not finite; that epoch was not kept.
        ConfigError: there are fewer than two pictures per process, or the initial weights cannot be used.
    """
    config = TrainConfig.model_validate_json(config_json)
    header = trainable_networks.Header.model_validate_json(header_json)
    group = _join(config)
    try:
        with torch_processes.report_errors(folder):
            data = pixel_shards.load(pictures, 1 if header.grey else 3, header.side)
            if len(data.training) < 2 * group.world_size:
                raise ConfigError(
                    f"{len(data.training)} pictures to train on, {group.world_size} processes need "
                    f"{2 * group.world_size}; give more, or lower train.held_out or train.processes"
                )
            return _Trainer(config, header, data, group, folder).run()
    finally:
        if group.world_size > 1:
            dist.destroy_process_group()


class Cosine(nn.Module):
    """Scaled cosines to a direction per class (Wang et al. 2018, "CosFace", section 3.1, without its margin)."""

    def __init__(self, size: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, size))
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of vectors [n, size]."""
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))


class _Trainer:
    """The state of a training."""

    def __init__(self, config: TrainConfig, header: Header, data: PixelData, group: _ProcessGroup, folder: str) -> None:
        self.config, self.header, self.data, self.group, self.folder = config, header, data, group, folder
        torch.manual_seed(randomness.mix(config.seed, _INIT) >> 1)
        self.backbone = _initial_network(config, header)
        size, classes = header.size, len(header.classes)
        head = Cosine(size, classes, config.scale) if config.loss == "cosine" else nn.Linear(size, classes)
        self.network = nn.Sequential(self.backbone, head).to(group.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=config.weight_decay)
        self.history: list[Epoch] = []
        self._restore()
        self.parallel: nn.Module = self.network
        if group.world_size > 1:
            self.parallel = nn.parallel.DistributedDataParallel(
                self.network, device_ids=[group.device.index] if group.device.type == "cuda" else None
            )

    def run(self) -> list[Epoch]:
        """Train the remaining epochs; rank 0 writes checkpoints and the result."""
        for epoch in range(len(self.history), self.config.epochs):
            since = time.monotonic()
            figures = {"loss": self._train_epoch(epoch)}
            if not math.isfinite(figures["loss"]):
                raise TrainingDiverged(
                    f"epoch {epoch + 1}: the loss is {figures['loss']}; lower train.learning_rate (now "
                    f"{self.config.learning_rate})"
                )
            if len(self.data.held_out):
                figures["accuracy"] = self._accuracy()
            self.history.append(figures | {"seconds": time.monotonic() - since})
            if self.group.rank == 0:
                self._save_checkpoint()
        if self.group.rank == 0:
            files.write_bytes(f"{self.folder}/{RESULT}", trainable_networks.save(self.backbone, self.header))
        return self.history

    def _train_epoch(self, epoch: int) -> float:
        """Train on every picture once; return the mean loss. An incomplete last batch is left out."""
        config, group = self.config, self.group
        rows = self.data.training
        rows = rows[randomness.permutation(len(rows), config.seed, _SHUFFLE, epoch)]
        size = min(config.batch_size, len(rows))
        size -= size % group.world_size
        steps = len(rows) // size
        total = torch.zeros((), device=group.device)
        self.parallel.train()
        for step in range(steps):
            self._set_rate((epoch * steps + step) / (config.epochs * steps))
            batch = slice(step * size + group.rank, (step + 1) * size, group.world_size)
            random = randomness.generator(config.seed, _AUGMENT, epoch, step, group.rank)
            x, labels = self._batch(rows[batch], random)
            with torch.autocast(group.device.type, torch.bfloat16, enabled=group.device.type == "cuda"):
                logits = self.parallel(x)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()
        return float(self._sum(total)) / (steps * group.world_size)

    @torch.inference_mode()
    def _accuracy(self) -> float:
        """Return the share of held-out pictures that are classified correctly."""
        self.network.eval()
        rows = self.data.held_out[self.group.rank :: self.group.world_size]
        correct = torch.zeros((), device=self.group.device)
        for start in range(0, len(rows), self.config.batch_size):
            x, labels = self._batch(rows[start : start + self.config.batch_size], None)
            correct += (self.network(x).argmax(dim=1) == labels).sum()
        return float(self._sum(correct)) / len(self.data.held_out)

    def _batch(self, rows: NDArray[np.int64], random: np.random.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        side = self.header.side
        pixels = self.data.pixels[rows].reshape(len(rows), -1, side, side)
        if random is not None:
            pixels = augment(pixels, self.config.shift, self.config.flip, random)
        x = trainable_networks.normalize(torch.from_numpy(pixels).to(self.group.device), self.header)
        labels = torch.from_numpy(self.data.labels[rows].astype(np.int64)).to(self.group.device)
        return x.contiguous(memory_format=torch.channels_last), labels

    def _set_rate(self, progress: float) -> None:
        """Set the learning rate for a point of the training, 0 at its start and 1 at its end."""
        factor = (1 + math.cos(math.pi * progress)) / 2
        if self.config.schedule == "one-cycle":
            fall = max(0.0, progress - _WARMUP) / (1 - _WARMUP)
            factor = max(progress / _WARMUP, 0.04) if progress < _WARMUP else (1 + math.cos(math.pi * fall)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor

    def _sum(self, value: torch.Tensor) -> torch.Tensor:
        if self.group.world_size > 1:
            dist.all_reduce(value)
        return value

    def _save_checkpoint(self) -> None:
        """Write a checkpoint and the history that the driver shows; only the last two checkpoints are kept."""
        content = io.BytesIO()
        state = {"whole": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"history": json.dumps(self.history)}, content)
        epochs = len(self.history)
        files.write_bytes(f"{self.folder}/epoch-{epochs:05d}.pt", content.getvalue())
        files.write_bytes(f"{self.folder}/{HISTORY}", json.dumps(self.history).encode())
        files.delete(f"{self.folder}/epoch-{epochs - 2:05d}.pt")

    def _restore(self) -> None:
        names = [name for name in files.children(self.folder) if name.startswith("epoch-")]
        if names:
            content = io.BytesIO(files.read_bytes(f"{self.folder}/{names[-1]}"))
            state: dict[str, Any] = torch.load(content, map_location=self.group.device, weights_only=True)
            self.network.load_state_dict(state["whole"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = json.loads(state["history"])


def augment(pictures: NDArray[np.uint8], shift: int, flip: bool, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the pictures, uint8 [n, c, h, w], each shifted by up to ``shift`` pixels, edges repeated, or mirrored."""
    count, _, height, width = pictures.shape
    if shift:
        padded = np.pad(pictures, ((0, 0), (0, 0), (shift, shift), (shift, shift)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        down, right = random.integers(0, 2 * shift + 1, (2, count))
        pictures = windows[np.arange(count), :, down, right]
    if flip:
        mirrored = random.integers(0, 2, (count, 1, 1, 1), bool)
        pictures = np.where(mirrored, pictures[..., ::-1], pictures)
    return pictures


def _initial_network(config: TrainConfig, header: Header) -> nn.Module:
    """Return the network before training."""
    if config.start is None:
        return trainable_networks.build(header.architecture, header.side, header.size, header.grey)[0]
    source = BackboneConfig(name=config.architecture, weights=None if config.start == "DEFAULT" else config.start)
    return backbones.load(source).module.requires_grad_(True)


def _join(config: TrainConfig) -> _ProcessGroup:
    """Join the process group that torchrun's environment variables describe."""
    rank, world_size, local_rank, local_world_size = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    torch.set_num_threads(config.threads or max(1, cgroups.cores() // local_world_size))
    device = torch.device(devices.process_device(config.gpu, local_rank))
    if config.gpu:
        torch.cuda.set_device(device)
    if world_size > 1:
        dist.init_process_group("nccl" if config.gpu else "gloo")
    return _ProcessGroup(rank, world_size, device)
