"""A model of two operations, for tests that need one that is real but quick to load."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.writing import write_saved_model
from sealserve.wire.tensorflow_pb2 import DataType


def write_doubling_model(base: Path, *, version: int = 1, factor: float = 2.0) -> Path:
    """``y = factor * x`` for float32 vectors."""
    graph = GraphBuilder()
    x = graph.placeholder("x", DataType.DT_FLOAT, [-1])
    factor_node = graph.constant("factor", np.array(factor, np.float32))
    graph.node("Mul", "y", [x, factor_node], T=type_attribute(DataType.DT_FLOAT))
    ends = {name: TensorInGraph(f"{name}:0", DataType.DT_FLOAT, (-1,)) for name in "xy"}
    message = graph.saved_model({"x": ends["x"]}, {"y": ends["y"]}, signature="serving_default")
    write_saved_model(base, version, message)
    return base
