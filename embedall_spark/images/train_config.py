"""What a training is told; no torch, no Spark."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embedall_spark.config import MOVABLE, Section


class TrainConfig(Section):
    """What learns, and how."""

    architecture: str = Field(
        "small",
        description="small (a convolutional network of ours), efficientnet_lite0, or a classification network of "
        "torchvision, such as resnet18",
    )
    start: str | None = Field(
        None,
        description="weights to begin from, where the network is not small: a file of a state dict, a name among "
        "torchvision's weights, or DEFAULT; unset: at random",
    )
    side: int = Field(28, ge=8, le=1024, description="height and width of a picture, pixels")
    grey: bool = Field(False, description="take colours away")
    vector_size: int = Field(64, ge=2, description="length of a vector of the small network; others have their own")
    loss: Literal["cosine", "softmax"] = Field(
        "cosine", description="cross-entropy of scaled cosines to a direction per class, or of a linear layer"
    )
    scale: float = Field(16.0, gt=0, description="of the cosines")
    epochs: int = Field(5, ge=1, description="how often every picture is seen")
    batch_size: int = Field(256, ge=2, description="pictures per step, of all processes together")
    learning_rate: float = Field(0.004, gt=0, description="its highest value (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    schedule: Literal["one-cycle", "cosine"] = Field(
        "one-cycle", description="the rate rises, then falls to 0; or falls from the start"
    )
    smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label that is spread over all classes")
    shift: int = Field(2, ge=0, description="move each picture by up to so many pixels each time")
    flip: bool = Field(False, description="mirror each picture, left to right, half of the times")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of the pictures that only measure, by a hash of ids")
    processes: int = Field(1, ge=1, description="how many processes learn together; on a cluster each is a task")
    threads: int = Field(
        0, ge=0, description="CPU threads of a process; 0: its share of the cores", json_schema_extra=MOVABLE
    )
    gpu: bool = Field(False, description="a GPU for each process", json_schema_extra=MOVABLE)
    seed: int = Field(1, description="of the start, the order and the shifts")
