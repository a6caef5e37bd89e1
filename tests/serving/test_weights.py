"""Large values stand beside the graph, and are in memory once."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tensor_bundles import entry, table

from sealserve.errors import ModelError
from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.writing import write_saved_model
from sealserve.serving.frozen_graph import freeze
from sealserve.serving.model_files import MemoryFiles
from sealserve.serving.tensor_bundle import INDEX_FILE
from sealserve.serving.weights import Weights
from sealserve.wire.tensorflow_pb2 import AttrValue, BundleHeaderProto, DataType, TensorShapeProto
from sealserve.wire.tensors import tensor_type

SIZE = 64
generator = np.random.default_rng(0)
FIRST, SECOND = (generator.standard_normal((SIZE, SIZE)).astype(np.float32) for _ in range(2))


def model(first=FIRST, second=SECOND, *, twice=False):
    """``y = x @ variable @ constant``; ``twice`` with a second signature that leaves out the constant."""
    graph, number = GraphBuilder(), type_attribute(tensor_type(first.dtype))
    x = graph.placeholder("x", tensor_type(first.dtype), [-1, len(first)])
    shape = AttrValue(shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in first.shape]))
    variable = graph.node("VarHandleOp", "variable", [], dtype=number, shape=shape)
    read = graph.node("ReadVariableOp", "read", [variable], dtype=number)
    graph.node("MatMul", "half", [x, read], T=number)
    graph.node("MatMul", "y", ["half", graph.constant("constant", second)], T=number)
    names, parts = (graph.constant(name, np.array([text], object)) for name, text in (("n", b"w"), ("p", b"")))
    restored = graph.node("RestoreV2", "restore", [graph.constant("f", np.array(b"", object)), names, parts])
    graph.node("AssignVariableOp", "assign", [variable, restored])
    info = {name: TensorInGraph(f"{name}:0", tensor_type(first.dtype), (-1, SIZE)) for name in ("x", "half", "y")}
    message = graph.saved_model({"x": info["x"]}, {"y": info["y"]}, signature="serving_default")
    if twice:
        definition = message.meta_graphs[0].signature_def["half"]
        definition.CopyFrom(message.meta_graphs[0].signature_def["serving_default"])
        definition.outputs["y"].name = "half:0"
    return message


def files_of(message, first=FIRST):
    files = MemoryFiles()
    index = [(b"", BundleHeaderProto(num_shards=1).SerializeToString())]
    index.append((b"w", entry(first, 0, dtype=tensor_type(first.dtype))))
    for name, content in (
        ("saved_model.pb", message.SerializeToString()),
        (INDEX_FILE, table(index)),
        ("variables/variables.data-00000-of-00001", first.tobytes()),
        ("assets.extra/notes", b"kept"),
    ):
        with files.add(name) as file:
            file.write(content)
    return files


def test_large_values_are_not_in_the_graph_and_are_shared_by_signatures():
    message = model(twice=True)
    meta_graph = message.meta_graphs[0]
    with files_of(message) as files:
        values = Weights(meta_graph.graph_def, files)
        whole, half = (freeze(meta_graph, name, values) for name in ("serving_default", "half"))
    assert whole.weights.keys() == {"variable", "constant"}
    assert half.weights.keys() == {"variable"}
    assert whole.weights["variable"] is half.weights["variable"]
    assert len(whole.graph.SerializeToString()) < 4096
    for name, array in (("variable", FIRST), ("constant", SECOND)):
        data = whole.weights[name].data
        assert data.tobytes() == array.tobytes()
        assert data.ctypes.data % 64 == 0  # OpenVINO copies others


@pytest.mark.parametrize("code", ["f4", "f8", "f2", "i4", "i8"])
def test_a_model_with_large_values_answers(engine, code):
    first, second = ((array * 3).astype(code) for array in (FIRST, SECOND))
    with files_of(model(first, second, twice=True), first) as files:
        loaded = engine.load(files)
    x = (np.arange(2 * SIZE) % 3).reshape(2, SIZE).astype(code)
    exactly = [array.astype(np.float64) for array in (x, first, second)]
    for name, expected in (
        ("serving_default", exactly[0] @ exactly[1] @ exactly[2]),
        ("half", exactly[0] @ exactly[1]),
    ):
        answer = loaded.predict(name, {"x": x})["y"]
        assert answer.dtype == code
        assert np.allclose(answer, expected, rtol=1e-4, atol=2 if code == "f2" else 1e-2)


def test_what_an_engine_has_read_it_lets_go_of(engine):
    with files_of(model()) as files:
        graph = files["saved_model.pb"]
        engine.load(files)
        assert files.keys() == {"assets.extra/notes"}
        assert graph.closed


@pytest.mark.parametrize("content", [b"", b"\0" * 4095, b"\0" * (SIZE * SIZE * 4 - 4), b"\0" * (SIZE * SIZE * 4 + 4)])
def test_a_constant_with_other_than_its_elements_stays_in_the_graph_and_is_refused_or_zero(engine, content):
    message = model()
    node = next(node for node in message.meta_graphs[0].graph_def.node if node.name == "constant")
    node.attr["value"].tensor.tensor_content = content
    meta_graph = message.meta_graphs[0]
    with files_of(message) as files:
        made = freeze(meta_graph, "serving_default", Weights(meta_graph.graph_def, files))
        assert made.weights.keys() == {"variable"}
        try:
            loaded = engine.load(files)
        except ModelError:
            return
    assert not loaded.predict("serving_default", {"x": np.ones((1, SIZE), np.float32)})["y"].any()


MEASURE = """
import sys, numpy as np
from pathlib import Path
from sealserve.serving.model_files import directory_files
from sealserve.serving.openvino_engine import OpenVinoEngine

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

engine = OpenVinoEngine(threads=1)
for directory in sys.argv[1:]:
    before = kilobytes("VmRSS")
    with directory_files(Path(directory)) as files:
        model = engine.load(files)
    model.predict("serving_default", {"x": np.ones((1, 2048), np.float32)})
print((kilobytes("VmHWM") - before) * 1024)
"""


def test_a_model_takes_little_more_memory_than_itself_to_load(tmp_path):
    """Its own values, and OpenVINO's own form of them; a third copy would be above the bound."""
    size, layers = 2048, 4
    directories = []
    for name, count in (("small", 0), ("large", layers)):
        graph, number = GraphBuilder(), type_attribute(DataType.DT_FLOAT)
        last = graph.placeholder("x", DataType.DT_FLOAT, [-1, size])
        for layer in range(count):
            weights = np.full((size, size), 1 / size, np.float32)
            last = graph.node("MatMul", f"y{layer}", [last, graph.constant(f"w{layer}", weights)], T=number)
        last = graph.node("Relu", "relu", [last], T=number)
        x, y = (TensorInGraph(f"{node}:0", DataType.DT_FLOAT, (-1, size)) for node in ("x", last))
        message = graph.saved_model({"x": x}, {"y": y}, signature="serving_default")
        directories.append(str(write_saved_model(tmp_path / name, 1, message)))
    peak = int(subprocess.run([sys.executable, "-c", MEASURE, *directories], capture_output=True, check=True).stdout)
    assert peak < 2.7 * layers * size * size * 4
