"""The models of the serving benchmark: tiny, three small ones, and ResNet-50. Written once, and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.writing import write_saved_model
from sealserve.wire.tensorflow_pb2 import DataType

Array = np.ndarray[Any, np.dtype[Any]]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sealserve-benchmarks"

_RESNET = """
import sys, tensorflow as tf
tf.keras.utils.set_random_seed(0)
tf.keras.applications.ResNet50(weights=None).export(sys.argv[1], format="tf_saved_model", verbose=False)
"""

_TEXT = """
import sys, tensorflow as tf
tf.keras.utils.set_random_seed(0)
k = tf.keras
layers = [k.Input((32,), dtype="int32"), k.layers.Embedding(10000, 128), k.layers.GRU(256), k.layers.Dense(2)]
k.Sequential(layers).export(sys.argv[1], format="tf_saved_model", verbose=False)
"""


@dataclass(frozen=True)
class Model:
    """A model of the benchmark.

    :ivar directory: of version 1.
    :ivar input: its name in the signature. :ivar array: what is asked.
    """

    name: str
    directory: Path
    input: str
    array: Array


def tiny() -> Model:
    """``y = x / 2 + 2``, whose answer costs next to nothing."""
    directory = CACHE / "tiny" / "1"
    if not directory.exists():
        write_tiny(directory.parent)
    return Model("tiny", directory, "x", np.arange(4, dtype=np.float32))


def write_tiny(base: Path) -> Path:
    """The tiny model's directory, of version 1."""
    graph, number = GraphBuilder(), type_attribute(DataType.DT_FLOAT)
    x = graph.placeholder("x", DataType.DT_FLOAT, [-1])
    half = graph.node("Mul", "half", [x, graph.constant("scale", np.array(0.5, np.float32))], T=number)
    graph.node("Add", "y", [half, graph.constant("offset", np.array(2, np.float32))], T=number)
    tensors = {name: TensorInGraph(f"{name}:0", DataType.DT_FLOAT, (-1,)) for name in "xy"}
    message = graph.saved_model({"x": tensors["x"]}, {"y": tensors["y"]}, signature="serving_default")
    return write_saved_model(base, 1, message)


def dense() -> Model:
    """Three layers of ``relu(x W)``, 64 numbers to 2048, 2048 and 10: 17 MB of weights."""
    return _layers("dense", (64, 2048, 2048, 10))


def ranking() -> Model:
    """Four such layers, 256 numbers to one: 27 MB of weights, as models that rank have.

    One row reads all weights from memory, and so does a batch, once.
    """
    return _layers("ranking", (256, 2048, 2048, 1024, 1))


def _layers(name: str, widths: tuple[int, ...]) -> Model:
    directory = CACHE / name / "1"
    generator = np.random.default_rng(0)
    if not directory.exists():
        graph, number = GraphBuilder(), type_attribute(DataType.DT_FLOAT)
        last = graph.placeholder("x", DataType.DT_FLOAT, [-1, widths[0]])
        for layer, (rows, columns) in enumerate(pairwise(widths)):
            weights = generator.normal(0, (2 / rows) ** 0.5, (rows, columns)).astype(np.float32)
            product = graph.node("MatMul", f"product{layer}", [last, graph.constant(f"w{layer}", weights)], T=number)
            last = graph.node("Relu", f"relu{layer}", [product], T=number)
        x = TensorInGraph("x:0", DataType.DT_FLOAT, (-1, widths[0]))
        y = TensorInGraph(f"{last}:0", DataType.DT_FLOAT, (-1, widths[-1]))
        write_saved_model(directory.parent, 1, graph.saved_model({"x": x}, {"y": y}, signature="serving_default"))
    return Model(name, directory, "x", generator.random((1, widths[0]), dtype=np.float32))


def text() -> Model | None:
    """32 tokens through an embedding and a GRU of 256: 33 steps, one after the other. None without TensorFlow."""
    tokens = np.random.default_rng(1).integers(0, 10_000, (1, 32)).astype(np.int32)
    return _exported("text", _TEXT, tokens)


def resnet50() -> Model | None:
    """Keras's ResNet-50, with random weights; None without TensorFlow, which exports it."""
    return _exported("resnet50", _RESNET, np.random.default_rng(0).random((1, 224, 224, 3), dtype=np.float32) * 255)


def _exported(name: str, program: str, array: Array) -> Model | None:
    directory = CACHE / name / "1"
    if not (directory / "saved_model.pb").exists():
        made = subprocess.run(
            [sys.executable, "-c", program, directory], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, check=False
        )
        if made.returncode:
            return None
    return Model(name, directory, "keras_tensor", array)
