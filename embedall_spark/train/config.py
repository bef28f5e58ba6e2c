"""Options of training: of skip-gram with gensim's names and defaults, of GloVe with those of its authors' program."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from embedall_spark.config import MOVABLE, Section, TableVersion
from embedall_spark.corpus.cooccurrence import CooccurrenceConfig
from embedall_spark.corpus.ngrams import MAX_BUCKETS, Lengths
from embedall_spark.errors import ConfigError

_SGNS_ONLY = (
    *("sg", "cbow_mean", "hs", "negative", "batch_size", "ns_exponent"),
    *("shrink_windows", "sample", "alpha", "min_alpha", "min_n", "max_n", "bucket"),
)
# Of GloVe's authors; and measured, see docs/log.md.
_GLOVE, _STARTED = {"window": 15, "epochs": 25}, {"epochs": 1, "alpha": 0.01}


class Until(Section):
    """When to stop before the last epoch."""

    metric: Literal["loss", "analogy", "similarity"] = Field(
        "loss", description="figure computed after each epoch; a lower loss is better, of the others a higher value"
    )
    min_gain: float = Field(0.0, ge=0, description="an epoch that gains no more than this has no gain")
    patience: int = Field(1, ge=1, description="stop after so many epochs without gain")


class GloveConfig(Section):
    """GloVe (Pennington et al. 2014): a weighted least-squares fit of the logarithms of co-occurrence counts."""

    x_max: float = Field(100.0, gt=0, description="counts from here on have the full weight 1")
    alpha: float = Field(0.75, ge=0, le=2, description="a smaller count x weighs (x / x_max) to this power")
    eta: float = Field(0.05, gt=0, le=10, description="initial learning rate of AdaGrad")
    grad_clip: float = Field(100.0, gt=0, description="gradients are clipped to this absolute value")
    vector: Literal["sum", "input", "context"] = Field(
        "sum", description="vectors of the table: the sum of input and context vectors, or one of the two"
    )
    cooccurrence: CooccurrenceConfig = CooccurrenceConfig()


class TrainConfig(Section):
    """word2vec (Mikolov et al. 2013), as skip-gram with negative sampling if nothing else is said, or GloVe."""

    method: Literal["sgns", "glove"] = Field(
        "sgns",
        description="word2vec: skip-gram with negative sampling, unless sg or hs say otherwise; or GloVe, whose own "
        "options are under train.glove",
    )

    vector_size: int = Field(100, ge=1, le=4096, description="dimensions of a vector")
    window: int = Field(
        5, ge=1, le=512, description="greatest distance between a center and its context; with glove unset: 15"
    )
    shrink_windows: bool = Field(True, description="draw each window's size uniformly from 1 to window")
    sg: Literal[0, 1] = Field(1, description="1: skip-gram; 0: CBOW")
    cbow_mean: Literal[0, 1] = Field(1, description="with CBOW, 1: the mean of the context vectors; 0: their sum")
    hs: Literal[0, 1] = Field(
        0, description="1: hierarchical softmax, beside negative sampling or, with negative=0, instead of it"
    )
    min_n: int = Field(3, ge=1, le=64, description="fewest characters of an n-gram")
    max_n: int = Field(
        0,
        ge=0,
        le=64,
        description="most characters of an n-gram; 6 as in fastText: words also learn from their n-grams, and words "
        "never seen have vectors; 0: no n-grams",
    )
    bucket: int = Field(
        2_000_000, ge=1, le=MAX_BUCKETS, description="n-grams are hashed into so many buckets, each with a vector"
    )
    negative: int = Field(5, ge=0, le=64, description="negative samples per center; 0: no negative sampling")
    batch_size: int | None = Field(
        None,
        ge=1,
        le=32,
        description="contexts of a window that are trained on together and share their negatives; 1: each has its own, "
        "as in gensim, at about half the speed; unset: 32, with n-grams 3, and 1 for a graph of at most 32,768 "
        "vertices",
    )
    ns_exponent: float = Field(
        0.75, ge=-2, le=2, description="negatives are drawn in proportion to count to this power"
    )
    sample: float = Field(
        1e-3, ge=0, le=1, description="threshold above which frequent tokens are subsampled; 0: no subsampling"
    )
    alpha: float = Field(0.025, gt=0, le=1, description="learning rate at the beginning; unset: 0.025, with start 0.01")
    min_alpha: float = Field(
        0.0001, ge=0, le=1, description="learning rate at the end; it falls linearly with the trained tokens"
    )
    epochs: int = Field(
        5,
        ge=1,
        le=1000,
        description="passes over the sequences, each with new windows; unset: 5, with glove over the counts 25, with "
        "start 1",
    )
    seed: int = Field(1, ge=0, lt=2**63, description="seed of all random choices")
    workers: int = Field(
        1,
        ge=1,
        le=128,
        description="barrier tasks that share the model; each has a part of it",
        json_schema_extra=MOVABLE,
    )
    device: Literal["cpu", "cuda", "auto"] = Field(
        "cpu",
        description="what workers train on; cuda: one GPU each; auto: a GPU where Spark's executors have one",
        json_schema_extra=MOVABLE,
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="threads per worker; 1: every run gives the same bits; unset: the worker's share of cores",
        json_schema_extra=MOVABLE,
    )
    episodes: int | None = Field(
        None, ge=1, le=1024, description="rotations of the model per epoch; unset: 4 to 16, by the pairs per token"
    )
    spool_bytes: int = Field(
        8 << 30,
        ge=1 << 20,
        description="bytes of windows that a worker may store on local disk",
        json_schema_extra=MOVABLE,
    )
    slice_tokens: int = Field(
        250_000_000,
        ge=1000,
        description="tokens (with glove, cells) between two checkpoints; a killed run repeats at most so many",
        json_schema_extra=MOVABLE,
    )
    timeout: int = Field(
        900,
        ge=5,
        description="seconds that a worker waits for another, and the run for a replacement of a lost worker",
        json_schema_extra=MOVABLE,
    )
    retries: int = Field(
        2,
        ge=0,
        le=100,
        description="how often a slice is tried again after a worker was lost in it",
        json_schema_extra=MOVABLE,
    )
    context: bool = Field(False, description="also write the output (context) vectors")
    start: TableVersion | None = Field(
        None,
        description="table of vectors to start from, TABLE or TABLE@VERSION, with context vectors: its ids keep their "
        "vectors, and others are fitted to them first; for word2vec with negative sampling; unset: random vectors",
    )
    until: Until | None = Field(None, description="stop before the last epoch; unset: never. Keys:")
    glove: GloveConfig = GloveConfig()

    @model_validator(mode="wrap")
    @classmethod
    def _other_defaults(cls, values: Any, validate: ModelWrapValidatorHandler[TrainConfig]) -> TrainConfig:
        """Fill in the defaults of GloVe's authors where the method is GloVe, and those of a start from a table."""
        if not isinstance(values, dict):
            return validate(values)
        defaults = _GLOVE if values.get("method") == "glove" else _STARTED if values.get("start") is not None else {}
        config = validate(defaults | values)
        # What was filled in does not count as set.
        config.model_fields_set.intersection_update(values)
        return config

    @model_validator(mode="after")
    def _belongs_to_the_method(self) -> TrainConfig:
        """Refuse options of the method that is not used; a value that is the default changes nothing and may stand."""
        fields, foreign = type(self).model_fields, _SGNS_ONLY if self.method == "glove" else ("glove",)
        changed = [name for name in foreign if getattr(self, name) != fields[name].default]
        if changed and self.method == "glove":
            raise ValueError(
                f"{', '.join(f'train.{name}' for name in changed)} is for method sgns, but train.method is glove; "
                "leave it out, or set train.method=sgns. GloVe's own options are under train.glove"
            )
        if changed:
            raise ValueError(
                "train.glove has options of method glove, but train.method is sgns; set train.method=glove"
            )
        return self

    @model_validator(mode="after")
    def _variant(self) -> TrainConfig:
        if not self.negative and not self.hs:
            raise ValueError("negative=0 leaves nothing to train by; set train.hs=1, or train.negative above 0")
        if self.workers > 1 and self.method == "sgns" and (not self.sg or self.max_n or (self.hs and self.negative)):
            raise ValueError(
                f"workers={self.workers} is for skip-gram with either negative sampling or hs=1, and for GloVe; with "
                "sg=0, max_n above 0, or both hs=1 and negative above 0, set train.workers=1, whose train.threads use "
                "all cores of one host"
            )
        if 0 < self.max_n < self.min_n:
            raise ValueError(
                f"max_n={self.max_n} is below min_n={self.min_n}, so that there are no n-grams; set train.max_n=0 for "
                "none, or 6 as in fastText"
            )
        if self.context and not self.negative:
            raise ValueError("context=true needs negative sampling: with negative=0 a word has no output vector")
        return self

    @model_validator(mode="after")
    def _start(self) -> TrainConfig:
        if self.start is not None and (self.method == "glove" or self.hs or self.max_n or not self.negative):
            raise ValueError(
                "start is for skip-gram and CBOW with negative sampling: a table has no more of a model than vectors "
                "and context vectors; leave out hs, max_n and method=glove, or start"
            )
        return self

    @property
    def has_gpu_kernel(self) -> bool:
        """Whether there is a kernel for GPUs: of skip-gram with negative sampling, without n-grams, and of GloVe."""
        return self.method == "glove" or bool(self.sg and not self.hs and not self.max_n)

    @model_validator(mode="after")
    def _device(self) -> TrainConfig:
        if self.device == "cuda" and not self.has_gpu_kernel:
            raise ValueError(
                "device=cuda is for skip-gram with negative sampling and for GloVe; with sg=0, hs=1 or max_n set "
                "train.device=cpu"
            )
        return self

    def check_for(self, kind: str) -> None:
        """Raise ConfigError for options that only words have; ``kind`` is what is trained instead, in the plural."""
        if self.until is not None and self.until.metric != "loss":
            raise ConfigError(f"train.until.metric: {self.until.metric} is for words; {kind} have loss")
        if self.max_n:
            raise ConfigError(
                f"train.max_n={self.max_n} is for words; the names of {kind} have no n-grams: leave it out"
            )

    @property
    def ngrams(self) -> Lengths:
        """Which n-grams words have."""
        return Lengths(self.min_n, self.max_n, self.bucket)

    @model_validator(mode="after")
    def _rates(self) -> TrainConfig:
        if self.min_alpha > self.alpha:
            raise ValueError(f"min_alpha must not be above alpha, got {self.min_alpha} > {self.alpha}")
        return self
