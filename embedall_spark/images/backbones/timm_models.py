"""Networks of timm with weights from a file: timm:NAME, where NAME may have a tag such as .a1_in1k."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import import_extra, weights

# First: it keeps torch's compiler from being imported, and timm imports torchvision.
from embedall_spark.images.vision_library import torchvision  # noqa: F401

if TYPE_CHECKING:
    from embedall_spark.images.backbones import Backbone, BackboneConfig, TransformConfig

EXTRA = "timm"


def load(config: BackboneConfig) -> Backbone:
    """Return a network of timm without its classifier, and the transform that timm has for its tag.

    Raises:
        ConfigError: timm is not installed, the network is unknown, or the weights are missing or of another network.
    """
    timm = import_extra("timm", EXTRA)
    name = config.name.partition(":")[2]
    if not timm.is_model(name):
        matches = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
        raise ConfigError(f"backbone.name: {name} is no network of timm {timm.__version__}{hint}")
    if config.weights is None:
        raise ConfigError(
            f"backbone.weights: {config.name} needs a file, since nothing is downloaded in a run. Download one once "
            f"(huggingface-cli download timm/{name} model.safetensors) to a folder that all hosts share"
        )
    module = timm.create_model(name, pretrained=False, num_classes=0)
    classifier = module.pretrained_cfg.get("classifier") or ()
    weights.load_into(module, config.weights, without=(classifier,) if isinstance(classifier, str) else classifier)
    data = import_extra("timm.data", EXTRA)
    transform = data.create_transform(**data.resolve_data_config(_options(config.transform), model=module))
    return weights.make_backbone(config.name, module, transform)


def _options(config: TransformConfig) -> dict[str, Any]:
    """Return what is set, by timm's names."""
    options = config.model_dump(exclude_none=True)
    if "size" in options:
        options["input_size"] = (3, options["size"], options.pop("size"))
    if "crop" in options:
        options["crop_pct"] = options.pop("crop")
    return options
