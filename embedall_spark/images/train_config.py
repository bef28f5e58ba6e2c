"""Configuration of training a backbone; imports neither torch nor Spark."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embedall_spark.config import MOVABLE, Section


class TrainConfig(Section):
    """The network and its training."""

    architecture: str = Field(
        "small",
        description="small (a convolutional network of this package), efficientnet_lite0, or a classification network "
        "of torchvision, such as resnet18",
    )
    start: str | None = Field(
        None,
        description="initial weights of any network but small: a file of a state dict, the name of weights of "
        "torchvision, or DEFAULT; unset: random",
    )
    side: int = Field(28, ge=8, le=1024, description="height and width to which pictures are scaled, in pixels")
    grey: bool = Field(False, description="convert pictures to grayscale")
    vector_size: int = Field(64, ge=2, description="dimension of the small network's vectors; others have their own")
    loss: Literal["cosine", "softmax"] = Field(
        "cosine", description="cross-entropy of scaled cosines to a direction per class, or of a linear layer"
    )
    scale: float = Field(16.0, gt=0, description="factor of the cosines in the cosine loss")
    epochs: int = Field(5, ge=1, description="passes over the pictures")
    batch_size: int = Field(256, ge=2, description="pictures per step, of all processes together")
    learning_rate: float = Field(0.004, gt=0, description="largest learning rate (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    schedule: Literal["one-cycle", "cosine"] = Field(
        "one-cycle", description="the learning rate rises, then falls to 0 (one-cycle), or falls from the start"
    )
    smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing: share that is spread over all classes")
    shift: int = Field(2, ge=0, description="augmentation: shift each picture by up to so many pixels, at random")
    flip: bool = Field(False, description="augmentation: mirror each picture, left to right, half of the time")
    held_out: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the pictures that only measure accuracy, by a hash of their ids",
    )
    processes: int = Field(1, ge=1, description="processes that train together; on a cluster each is a task")
    threads: int = Field(
        0, ge=0, description="CPU threads of a process; 0: its share of the cores", json_schema_extra=MOVABLE
    )
    gpu: bool = Field(False, description="use one GPU per process", json_schema_extra=MOVABLE)
    seed: int = Field(1, description="random seed of initial weights, order and augmentation")
