"""A network in an ONNX file, run by onnxruntime on the CPU or a GPU: onnx:FILE."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from embedall_spark import files
from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import TransformConfig, first_line, import_extra, weights
from embedall_spark.images.vision_library import transforms

if TYPE_CHECKING:
    from PIL import Image

    from embedall_spark.images.backbones import Backbone, BackboneConfig

EXTRA = "onnx"
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
# Keys of the file's metadata, as timm calls them, each a JSON value.
_METADATA = {"size": "input_size", "crop": "crop_pct", "mean": "mean", "std": "std", "interpolation": "interpolation"}
_SIZE_OF_FREE_AXES = 224


class Input(NamedTuple):
    """What an ONNX file takes."""

    name: str
    dtype: torch.dtype
    channels_last: bool
    """Whether it is [n, h, w, 3] in place of [n, 3, h, w]."""
    one_by_one: bool
    """Whether the file takes one picture at a time."""
    side: int | None
    """Width and height; None: any."""


class OnnxNetwork(nn.Module):
    """Runs a file on the device of its input; float32 [n, 3, h, w] -> float32 [n, d], in main memory."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__()
        self._name, self._content = name, content
        self._device, self._session = torch.device("cpu"), _open(name, content, torch.device("cpu"))
        self.input = _input(name, self._session)

    def __deepcopy__(self, _: dict[int, Any]) -> OnnxNetwork:
        # A session cannot be copied.
        return OnnxNetwork(self._name, self._content)

    @property
    def metadata(self) -> dict[str, str]:
        """The file's own key-value pairs."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the file's output."""
        if x.device != self._device:
            self._device, self._session = x.device, _open(self._name, self._content, x.device)
        if self.input.channels_last:
            x = x.permute(0, 2, 3, 1)
        x = x.to(self.input.dtype).contiguous(memory_format=torch.contiguous_format)
        if not self.input.one_by_one:
            return self._run(x)
        return torch.cat([self._run(x[row : row + 1]) for row in range(len(x))])

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        binding = self._session.io_binding()
        element_type = "float16" if x.dtype == torch.float16 else "float32"
        if x.is_cuda:
            # onnxruntime reads the pictures in a stream of its own.
            torch.cuda.current_stream(x.device).synchronize()
        place = {"device_type": x.device.type, "device_id": x.device.index or 0}
        binding.bind_input(
            self.input.name, **place, element_type=element_type, shape=tuple(x.shape), buffer_ptr=x.data_ptr()
        )
        binding.bind_output(self._session.get_outputs()[0].name)
        self._session.run_with_iobinding(binding)
        [values] = binding.copy_outputs_to_cpu()
        return torch.from_numpy(values).float().flatten(1)


class Transform:
    """Scales the shorter side, crops the center and normalizes each color."""

    def __init__(self, size: int, crop: float, mean: list[float], std: list[float], interpolation: str) -> None:
        self._size, self._scaled = size, round(size / crop)
        self._mean, self._std = mean, std
        self._interpolation = transforms.InterpolationMode(interpolation)

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """Return float32 [3, size, size]."""
        small = transforms.functional.resize(picture, [self._scaled], self._interpolation)
        pixels = transforms.functional.pil_to_tensor(transforms.functional.center_crop(small, [self._size]))
        normalized: torch.Tensor = transforms.functional.normalize(pixels.float().div_(255), self._mean, self._std)
        return normalized

    def __repr__(self) -> str:
        return f"{self._interpolation.value} {self._scaled}, middle {self._size}, (x - {self._mean}) / {self._std}"


def load(config: BackboneConfig) -> Backbone:
    """Return the network in a file, and the transform that its metadata or the configuration describes.

    Raises:
        ConfigError: onnxruntime is not installed, the file cannot be used, or neither says how pictures are normalized.
    """
    if config.weights is not None:
        raise ConfigError("backbone.weights: an ONNX file holds its weights; leave backbone.weights out")
    path = config.name.partition(":")[2]
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise ConfigError(f"backbone.name: {path} cannot be read ({error}); every worker must see the file") from None
    if config.output is not None:
        content = _with_output(path, content, config.output)
    network = OnnxNetwork(path, content)
    identity = f"onnx {hashlib.sha256(content).hexdigest()}"
    return weights.make_backbone(config.name, network, _transform(path, network, config.transform), identity)


def _open(name: str, content: bytes, device: torch.device) -> Any:
    """Return a session on a device, with as many threads as torch has.

    Raises:
        ConfigError: onnxruntime is not there, not built for the device, or cannot read the file.
    """
    runtime = import_extra("onnxruntime", EXTRA)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait must not take the cores of those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        # Its errors have no common class.
        raise ConfigError(f"backbone.name: {name} cannot be run by onnxruntime: {first_line(error)}") from None
    if device.type == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise ConfigError(
            f"backbone.name: {name} is to run on {device}, and onnxruntime here runs on the CPU only: replace it "
            "(pip uninstall onnxruntime; pip install onnxruntime-gpu), or unset featurize.device"
        )
    return session


def _input(name: str, session: Any) -> Input:
    """Return what a file takes; raise ConfigError if that is no picture, or it returns several tensors."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(outputs) != 1:
        raise ConfigError(
            f"backbone.output: {name} has the outputs {', '.join(output.name for output in outputs)}; choose one"
        )
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) or inputs[0].type not in _TYPES:
        kinds = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise ConfigError(
            f"backbone.name: {name} takes {kinds}; need one tensor of floats [n, 3, h, w] or [n, h, w, 3]"
        )
    channels_last = shape[1] != 3
    batch, sides = shape[0], shape[1:3] if channels_last else shape[2:4]
    if isinstance(batch, int) and batch != 1:
        raise ConfigError(f"backbone.name: {name} takes {batch} pictures at a time; export it with a free first axis")
    sizes = {side for side in sides if isinstance(side, int)}
    if len(sizes) > 1:
        raise ConfigError(f"backbone.name: {name} takes pictures of {sides[1]} x {sides[0]}; need a square")
    side = sizes.pop() if sizes else None
    return Input(inputs[0].name, _TYPES[inputs[0].type], channels_last, batch == 1, side)


def _transform(name: str, network: OnnxNetwork, config: TransformConfig) -> Transform:
    """Return the transform that options or else the file's metadata describe."""
    metadata = network.metadata
    values: dict[str, Any] = {}
    for option, key in _METADATA.items():
        if key in metadata:
            values[option] = metadata[key] if option == "interpolation" else _parse(name, key, metadata[key])
    if isinstance(values.get("size"), list):
        values["size"] = values["size"][-1]
    try:
        # As options are checked.
        described = TransformConfig.model_validate(values)
    except ValueError as error:
        raise ConfigError(f"backbone.name: {name}: its metadata {metadata} cannot be used: {error}") from None
    merged = described.model_copy(update=config.model_dump(exclude_none=True))
    side = network.input.side
    if side is not None and merged.size not in (None, side):
        raise ConfigError(f"backbone.transform.size: {name} takes pictures of {side} pixels, not of {merged.size}")
    if merged.mean is None or merged.std is None:
        raise ConfigError(
            f"backbone.transform: {name} does not say how pictures are normalized (metadata mean and std); set "
            "backbone.transform.mean and .std, such as ImageNet's [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]"
        )
    size = side or merged.size or _SIZE_OF_FREE_AXES
    return Transform(
        size, merged.crop or 0.875, list(merged.mean), list(merged.std), merged.interpolation or "bilinear"
    )


def _parse(name: str, key: str, text: str) -> Any:
    try:
        return json.loads(text.replace("(", "[").replace(")", "]"))
    except ValueError:
        raise ConfigError(f"backbone.name: {name}: its metadata {key} is {text!r}, need JSON") from None


def _with_output(name: str, content: bytes, output: str) -> bytes:
    """Return a file whose only output is one of its tensors, such as the one before the last layer.

    Raises:
        ConfigError: there is no such tensor, or the package onnx is not there.
    """
    onnx = import_extra("onnx", EXTRA)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise ConfigError(f"backbone.name: {name} is no ONNX file: {first_line(error)}") from None
    tensors = [tensor for node in model.graph.node for tensor in node.output if tensor]
    if output not in tensors:
        raise ConfigError(f"backbone.output: {name} has no tensor {output}; its last ones: {', '.join(tensors[-5:])}")
    known = {value.name: value for value in (*model.graph.output, *model.graph.value_info)}
    del model.graph.output[:]
    model.graph.output.append(known.get(output) or onnx.ValueInfoProto(name=output))
    result: bytes = model.SerializeToString()
    return result
