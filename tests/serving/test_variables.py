"""Variables of SavedModels, from files made here; those of TensorFlow's making are in ``test_with_tensorflow.py``."""

from __future__ import annotations

import contextlib
import errno
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensor_bundles import entry, table

from sealserve.errors import ModelError
from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.serving import tensor_bundle
from sealserve.serving.frozen_graph import freeze
from sealserve.serving.model_files import MemoryFiles
from sealserve.serving.tensor_bundle import INDEX_FILE, TensorBundle
from sealserve.serving.variables import Variables
from sealserve.serving.weights import Weights
from sealserve.wire.tensorflow_pb2 import (
    AttrValue,
    BundleHeaderProto,
    DataType,
    TensorShapeProto,
    TensorSliceProto,
)

DATA_FILE = "variables/variables.data-00000-of-00001"
WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


HEADER = (b"", BundleHeaderProto(num_shards=1).SerializeToString())


def files_of(entries, data=None, **settings):
    data = WEIGHTS.tobytes() if data is None else data
    files = MemoryFiles()
    for name, content in ((INDEX_FILE, table(entries, **settings)), (DATA_FILE, data)):
        with files.add(name) as file:
            file.write(content)
    return files


def test_a_variable_is_read_from_its_place():
    other = np.float32([7, 8])
    entries = [HEADER, (b"weights", entry(WEIGHTS, 8)), (b"weights_2", entry(other, 0)), (b"x", entry(other, 0))]
    with files_of(entries, other.tobytes() + WEIGHTS.tobytes()) as files:
        bundle = TensorBundle(files)
        assert bundle.read("weights").data.tobytes() == WEIGHTS.tobytes()
        assert bundle.read("weights").shape == (2, 3)
        assert bundle.read("weights_2").data.tobytes() == other.tobytes()
        assert bundle.read("x").data_type == DataType.DT_FLOAT


def test_variables_are_read_where_there_is_no_preadv(monkeypatch):
    """As under Gramine, which has pread alone."""

    def no_preadv(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    large = np.arange(1 << 20, dtype=np.float32)  # in several pieces
    with files_of([HEADER, (b"w", entry(large, 3))], b"xxx" + large.tobytes()) as files:
        monkeypatch.setattr(os, "preadv", no_preadv)
        assert TensorBundle(files).read("w").data.tobytes() == large.tobytes()


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([HEADER], "lack w"),
        ([HEADER, (b"w", entry(WEIGHTS, 1))], "cut short"),
        ([HEADER, (b"w", entry(WEIGHTS, -1))], "lies nowhere"),
        ([HEADER, (b"w", entry(WEIGHTS, 0, shard_id=1))], "has no variables/variables.data-00001-of-00001"),
        ([HEADER, (b"w", entry(WEIGHTS, 0, slices=[TensorSliceProto()]))], "not all of it is stored"),
        ([HEADER, (b"w", entry(WEIGHTS, 0, dtype=DataType.DT_VARIANT))], "holds variant"),
        ([HEADER, (b"w", b"\xff")], "cannot be read"),
        ([(b"", BundleHeaderProto(num_shards=1, endianness=BundleHeaderProto.BIG).SerializeToString())], "big-endian"),
        ([(b"w", entry(WEIGHTS, 0))], "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_a_model_error(entries, says):
    with files_of(entries) as files, pytest.raises(ModelError, match=says):
        TensorBundle(files).read("w")


def test_a_compressed_index_and_one_that_is_missing_are_model_errors():
    with files_of([HEADER], compression=1) as files, pytest.raises(ModelError, match="compressed"):
        TensorBundle(files)
    with pytest.raises(ModelError, match=r"no variables/variables\.index"):
        TensorBundle({})


GOOD = table([HEADER, (b"weights", entry(WEIGHTS, 0)), (b"x", entry(WEIGHTS, 0))])


@given(st.binary(max_size=80) | st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)))
def test_any_index_is_read_or_refused(change):
    if isinstance(change, tuple):
        data = bytearray(GOOD)
        data[change[0]] = change[1]
    else:
        data = bytearray(change)
    with MemoryFiles() as files:
        with files.add(INDEX_FILE) as file:
            file.write(data)
        with files.add(DATA_FILE) as file:
            file.write(WEIGHTS.tobytes())
        with contextlib.suppress(ModelError):
            TensorBundle(files).read("weights")


def restoring_model(*, slices=b"", name=b"weights"):
    """``y = x @ w``, with the operations that restore ``w``."""
    graph, number = GraphBuilder(), type_attribute(DataType.DT_FLOAT)
    x = graph.placeholder("x", DataType.DT_FLOAT, [-1, 2])
    shape = AttrValue(shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in (2, 3)]))
    w = graph.node("VarHandleOp", "w", [], dtype=number, shape=shape)
    read = graph.node("ReadVariableOp", "read", [w], dtype=number)
    graph.node("MatMul", "y", [x, read], T=number)
    names = graph.constant("names", np.array([name], object))
    parts = graph.constant("parts", np.array([slices], object))
    prefix = graph.constant("prefix", np.array(b"", object))
    restored = graph.node("RestoreV2", "restore", [prefix, names, parts])
    graph.node("AssignVariableOp", "assign", [w, graph.node("Identity", "same", [restored], T=number)])
    tensors = {key: TensorInGraph(f"{key}:0", DataType.DT_FLOAT, (-1, size)) for key, size in (("x", 2), ("y", 3))}
    return graph.saved_model({"x": tensors["x"]}, {"y": tensors["y"]}, signature="serving_default")


def frozen(model, files):
    graph = model.meta_graphs[0]
    made = freeze(graph, "serving_default", Weights(graph.graph_def, files))
    return made.graph, made


def test_variables_become_constants_and_only_what_a_signature_needs_is_kept():
    with files_of([HEADER, (b"weights", entry(WEIGHTS, 0))]) as files:
        graph, tensors = frozen(restoring_model(), files)
    nodes = {node.name: node for node in graph.node}
    assert nodes.keys() == {"x", "w", "read", "y", "sealserve_output_0"}
    assert nodes["w"].op == "Const"
    assert nodes["w"].attr["value"].tensor.tensor_content == WEIGHTS.tobytes()
    assert (tensors.inputs, tensors.outputs) == ({"x": "x:0"}, {"y": "sealserve_output_0:0"})


def test_a_model_with_variables_answers(engine):
    with files_of([HEADER, (b"weights", entry(WEIGHTS, 0))]) as files:
        with files.add("saved_model.pb") as file:
            file.write(restoring_model().SerializeToString())
        model = engine.load(files)
    x = np.float32([[1, 2], [3, 4]])
    assert model.predict("serving_default", {"x": x})["y"].tolist() == (x @ WEIGHTS).tolist()


@pytest.mark.parametrize(
    ("model", "entry_changes", "says"),
    [
        (restoring_model(name=b"other"), {}, "lack other"),
        (restoring_model(slices=b"2 4 0,1:-"), {}, "the part '2 4 0,1:-' of the variable weights cannot be read"),
        (restoring_model(), {"dtype": DataType.DT_INT32}, "w is float, and stored as int32"),
    ],
)
def test_a_variable_that_is_not_stored_as_the_graph_says_is_refused(model, entry_changes, says):
    with (
        files_of([HEADER, (b"weights", entry(WEIGHTS, 0, **entry_changes))]) as files,
        pytest.raises(ModelError, match=says),
    ):
        frozen(model, files)


def test_a_tensor_in_the_middle_can_be_an_input_and_an_input_an_output():
    model = restoring_model()
    definition = model.meta_graphs[0].signature_def["serving_default"]
    definition.inputs["x"].name = "read:0"
    definition.outputs["same"].CopyFrom(definition.inputs["x"])
    del definition.outputs["y"]
    graph, tensors = frozen(model, {})
    assert {node.name for node in graph.node} == {"sealserve_input_0", "sealserve_output_0"}
    assert tensors.inputs == {"x": "sealserve_input_0:0"}


def test_a_graph_that_lacks_a_node_is_refused():
    model = restoring_model()
    model.meta_graphs[0].graph_def.node[0].name = "renamed"
    with pytest.raises(ModelError, match="no tensor x:0, which its signature calls x"):
        frozen(model, {})
    model = restoring_model()
    next(node for node in model.meta_graphs[0].graph_def.node if node.name == "y").input[1] = "missing"
    with pytest.raises(ModelError, match="lacks the node missing"):
        frozen(model, {})


@pytest.mark.parametrize(
    "changes",
    [{"assign": ["w"]}, {"assign": []}, {"restore": ["prefix"]}, {"same": []}, {"same": ["restore:x"]}],
)
def test_what_restores_variables_and_lacks_inputs_is_refused(changes):
    graph = restoring_model().meta_graphs[0].graph_def
    for node in graph.node:
        if node.op in {"AssignVariableOp", "RestoreV2", "Identity"}:
            kind = {"AssignVariableOp": "assign", "RestoreV2": "restore", "Identity": "same"}[node.op]
            node.input[:] = changes.get(kind, node.input)
    with pytest.raises(ModelError, match="malformed"):
        Variables(graph, {})


def test_what_is_assigned_in_a_circle_is_no_stored_value():
    graph = restoring_model().meta_graphs[0].graph_def
    identity = next(node for node in graph.node if node.op == "Identity")
    identity.input[:] = [identity.name]
    with pytest.raises(ModelError, match="no stored value"):
        Variables(graph, {}).value(next(node for node in graph.node if node.name == "w"))


def test_a_malformed_reference_to_a_node_is_refused():
    model = restoring_model()
    next(node for node in model.meta_graphs[0].graph_def.node if node.name == "y").input[1] = "read:x"
    with pytest.raises(ModelError, match="malformed reference 'read:x'"):
        frozen(model, {})


def refused_index(data):
    files = MemoryFiles()
    with files.add(INDEX_FILE) as file:
        file.write(data)
    with files, pytest.raises(ModelError) as caught:
        TensorBundle(files)
    return caught.value.message


def test_an_index_that_grows_while_it_is_read_is_refused(monkeypatch):
    """Each key has all of the key before it in common: what is read grows with the square of what is there."""
    data = table([HEADER, *((b"k" * length, b"") for length in range(1, 200))], at_once=200)
    monkeypatch.setattr(tensor_bundle, "_MOST_BYTES", 199 * 200 // 2 + len(HEADER[1]) - 1)
    assert len(data) < 2000
    assert "entries have more than" in refused_index(data)
    monkeypatch.setattr(tensor_bundle, "_MOST_BYTES", 199 * 200 // 2 + len(HEADER[1]))
    with MemoryFiles() as files:
        with files.add(INDEX_FILE) as file:
            file.write(data)
        TensorBundle(files)


def test_an_index_whose_blocks_overlap_is_refused():
    assert "overlap" in refused_index(table([HEADER, (b"weights", entry(WEIGHTS, 0))], repeated=10))
