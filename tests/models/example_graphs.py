"""Small graphs and the files that hold them."""

from __future__ import annotations

import numpy as np

from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.wire.tensorflow_pb2 import DataType, GraphDef, SavedModel

FLOAT = type_attribute(DataType.DT_FLOAT)


def classifier() -> GraphBuilder:
    """`input` [?, 4] → `predict` [?, 3], and a node that nothing needs."""
    graph = GraphBuilder()
    x = graph.placeholder("input", DataType.DT_FLOAT, [-1, 4])
    weights = graph.constant("weights", np.arange(12, dtype=np.float32).reshape(4, 3) / 12)
    bias = graph.constant("bias", np.array([1, 0, -1], np.float32))
    product = graph.node("MatMul", "product", [x, weights], T=FLOAT, transpose_a=False, transpose_b=False)
    graph.node("Softmax", "predict", [graph.node("BiasAdd", "add", [product, bias], T=FLOAT)], T=FLOAT)
    graph.node("NoOp", "init", [f"^{x}"])
    return graph


def graph_of(builder: GraphBuilder) -> GraphDef:
    return builder.saved_model({}, {}, signature="none").meta_graphs[0].graph_def


def frozen_graph() -> bytes:
    return graph_of(classifier()).SerializeToString(deterministic=True)


def saved_model() -> SavedModel:
    x = TensorInGraph("input:0", DataType.DT_FLOAT, (-1, 4))
    y = TensorInGraph("predict:0", DataType.DT_FLOAT, (-1, 3))
    return classifier().saved_model({"input": x}, {"predict": y}, signature="serving_default")
