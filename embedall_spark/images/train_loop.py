"""The training loop: plain torch in one process or several, without Spark. Goes on from its last finished epoch."""

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

from embedall_spark import files, randomness, torch_processes
from embedall_spark.errors import ConfigError, TrainingDiverged
from embedall_spark.images import backbones, pixel_shards, trainable_networks
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.images.train_config import TrainConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.images.pixel_shards import Pictures
    from embedall_spark.images.trainable_networks import Header

RESULT, HISTORY = "backbone.pt", "history.json"
_WARM = 0.3  # share of a one-cycle schedule in which the rate rises
_SHUFFLE, _AUGMENT, _START = 1, 2, 3

Epoch = dict[str, float]


class _Team(NamedTuple):
    """This process among those that learn together."""

    rank: int
    world: int
    device: torch.device


def fit(pictures: str, folder: str, config_json: str, header_json: str) -> list[Epoch]:
    """Train, or go on; return the figures of each epoch. Called in every process.

    Args:
        pictures: folder of the stage that shards.drawer() has filled.
        folder: where checkpoints go, and at last RESULT; all processes share it.
        config_json: TrainConfig.
        header_json: networks.Header of the network to make.

    Raises:
        TrainingDiverged: the loss is not finite; that epoch was not kept.
        ConfigError: there are fewer pictures than two per process, or the weights to start from cannot be used.
    """
    config = TrainConfig.model_validate_json(config_json)
    header = trainable_networks.Header.model_validate_json(header_json)
    team = _join(config)
    try:
        with torch_processes.report_errors(folder):
            data = pixel_shards.opened(pictures, 1 if header.grey else 3, header.side)
            if len(data.training) < 2 * team.world:
                raise ConfigError(
                    f"{len(data.training)} pictures to learn from, {team.world} processes need {2 * team.world}; "
                    "give more, or lower train.held_out or train.processes"
                )
            return _Learner(config, header, data, team, folder).run()
    finally:
        if team.world > 1:
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


class _Learner:
    """The state of a training."""

    def __init__(self, config: TrainConfig, header: Header, data: Pictures, team: _Team, folder: str) -> None:
        self.config, self.header, self.data, self.team, self.folder = config, header, data, team, folder
        torch.manual_seed(randomness.mix(config.seed, _START) >> 1)
        self.backbone = _begin(config, header)
        size, classes = header.size, len(header.classes)
        head = Cosine(size, classes, config.scale) if config.loss == "cosine" else nn.Linear(size, classes)
        self.whole = nn.Sequential(self.backbone, head).to(team.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.whole.parameters(), weight_decay=config.weight_decay)
        self.history: list[Epoch] = []
        self._restore()
        self.parallel: nn.Module = self.whole
        if team.world > 1:
            self.parallel = nn.parallel.DistributedDataParallel(
                self.whole, device_ids=[team.device.index] if team.device.type == "cuda" else None
            )

    def run(self) -> list[Epoch]:
        """Train what is left; rank 0 writes checkpoints and the result."""
        for epoch in range(len(self.history), self.config.epochs):
            since = time.monotonic()
            found = {"loss": self._epoch(epoch)}
            if not math.isfinite(found["loss"]):
                raise TrainingDiverged(
                    f"epoch {epoch + 1}: the loss is {found['loss']}; lower train.learning_rate (now "
                    f"{self.config.learning_rate})"
                )
            if len(self.data.held_out):
                found["accuracy"] = self._accuracy()
            self.history.append(found | {"seconds": time.monotonic() - since})
            if self.team.rank == 0:
                self._keep()
        if self.team.rank == 0:
            files.write_bytes(f"{self.folder}/{RESULT}", trainable_networks.save(self.backbone, self.header))
        return self.history

    def _epoch(self, epoch: int) -> float:
        """Learn from every picture once; return the mean loss. What is left over for a batch waits an epoch."""
        config, team = self.config, self.team
        rows = self.data.training
        rows = rows[randomness.permutation(len(rows), config.seed, _SHUFFLE, epoch)]
        size = min(config.batch_size, len(rows))
        size -= size % team.world
        steps = len(rows) // size
        total = torch.zeros((), device=team.device)
        self.parallel.train()
        for step in range(steps):
            self._set_rate((epoch * steps + step) / (config.epochs * steps))
            batch = slice(step * size + team.rank, (step + 1) * size, team.world)
            random = randomness.generator(config.seed, _AUGMENT, epoch, step, team.rank)
            x, labels = self._batch(rows[batch], random)
            with torch.autocast(team.device.type, torch.bfloat16, enabled=team.device.type == "cuda"):
                logits = self.parallel(x)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()
        return float(self._sum(total)) / (steps * team.world)

    @torch.inference_mode()
    def _accuracy(self) -> float:
        """Return the share of held-out pictures whose class is told."""
        self.whole.eval()
        mine = self.data.held_out[self.team.rank :: self.team.world]
        right = torch.zeros((), device=self.team.device)
        for start in range(0, len(mine), self.config.batch_size):
            x, labels = self._batch(mine[start : start + self.config.batch_size], None)
            right += (self.whole(x).argmax(dim=1) == labels).sum()
        return float(self._sum(right)) / len(self.data.held_out)

    def _batch(self, rows: NDArray[np.int64], random: np.random.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        side = self.header.side
        found = self.data.pixels[rows].reshape(len(rows), -1, side, side)
        if random is not None:
            found = moved(found, self.config.shift, self.config.flip, random)
        x = trainable_networks.scaled(torch.from_numpy(found).to(self.team.device), self.header)
        labels = torch.from_numpy(self.data.labels[rows].astype(np.int64)).to(self.team.device)
        return x.contiguous(memory_format=torch.channels_last), labels

    def _set_rate(self, done: float) -> None:
        factor = (1 + math.cos(math.pi * done)) / 2
        if self.config.schedule == "one-cycle":
            fall = max(0.0, done - _WARM) / (1 - _WARM)
            factor = max(done / _WARM, 0.04) if done < _WARM else (1 + math.cos(math.pi * fall)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor

    def _sum(self, value: torch.Tensor) -> torch.Tensor:
        if self.team.world > 1:
            dist.all_reduce(value)
        return value

    def _keep(self) -> None:
        """Write a checkpoint, and what drivers show; only the one before it is kept too."""
        content = io.BytesIO()
        state = {"whole": self.whole.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"history": json.dumps(self.history)}, content)
        done = len(self.history)
        files.write_bytes(f"{self.folder}/epoch-{done:05d}.pt", content.getvalue())
        files.write_bytes(f"{self.folder}/{HISTORY}", json.dumps(self.history).encode())
        files.delete(f"{self.folder}/epoch-{done - 2:05d}.pt")

    def _restore(self) -> None:
        names = [name for name in files.children(self.folder) if name.startswith("epoch-")]
        if names:
            content = io.BytesIO(files.read_bytes(f"{self.folder}/{names[-1]}"))
            state: dict[str, Any] = torch.load(content, map_location=self.team.device, weights_only=True)
            self.whole.load_state_dict(state["whole"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = json.loads(state["history"])


def moved(pictures: NDArray[np.uint8], shift: int, flip: bool, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return uint8 [n, c, h, w], each picture moved by up to ``shift`` pixels, its edges drawn out, or mirrored."""
    count, _, high, wide = pictures.shape
    if shift:
        around = np.pad(pictures, ((0, 0), (0, 0), (shift, shift), (shift, shift)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(around, (high, wide), axis=(2, 3))
        down, right = random.integers(0, 2 * shift + 1, (2, count))
        pictures = windows[np.arange(count), :, down, right]
    if flip:
        mirrored = random.integers(0, 2, (count, 1, 1, 1), bool)
        pictures = np.where(mirrored, pictures[..., ::-1], pictures)
    return pictures


def _begin(config: TrainConfig, header: Header) -> nn.Module:
    """Return the network before it has learnt."""
    if config.start is None:
        return trainable_networks.build(header.architecture, header.side, header.size, header.grey)[0]
    known = BackboneConfig(name=config.architecture, weights=None if config.start == "DEFAULT" else config.start)
    return backbones.load(known).module.requires_grad_(True)


def _join(config: TrainConfig) -> _Team:
    """Return this process's place, as torchrun tells it."""
    rank, world, local, beside = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // beside))
    device = torch.device("cuda", local) if config.gpu else torch.device("cpu")
    if config.gpu:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if config.gpu else "gloo")
    return _Team(rank, world, device)
