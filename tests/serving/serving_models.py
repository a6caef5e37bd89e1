"""Models for tests, written without TensorFlow."""

from __future__ import annotations

import numpy as np

from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.serving.model_files import directory_files
from sealserve.wire.tensorflow_pb2 import DataType


def affine_model(scale, offset, *, operation="Add"):
    """``y = x * scale + offset`` for float32 vectors; another ``operation`` in the place of the addition."""
    graph, number = GraphBuilder(), type_attribute(DataType.DT_FLOAT)
    x = graph.placeholder("x", DataType.DT_FLOAT, [-1])
    product = graph.node("Mul", "product", [x, graph.constant("scale", np.array(scale, np.float32))], T=number)
    graph.node(operation, "y", [product, graph.constant("offset", np.array(offset, np.float32))], T=number)
    x, y = (TensorInGraph(f"{name}:0", DataType.DT_FLOAT, (-1,)) for name in "xy")
    return graph.saved_model({"x": x}, {"y": y}, signature="serving_default")


def load(engine, directory):
    """A model version from a disk."""
    with directory_files(directory) as files:
        return engine.load(files)
