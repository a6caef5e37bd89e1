"""Frozen graphs become SavedModels; what is not clear about a graph is asked."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from example_graphs import FLOAT, classifier, frozen_graph, graph_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.cli.model import model as model_command
from sealserve.errors import InputError, ModelError, SealserveError
from sealserve.models.conversion import convert_frozen_graph
from sealserve.models.graph import GraphBuilder, type_attribute
from sealserve.models.saved_model import read_saved_model
from sealserve.wire.tensorflow_pb2 import AttrValue, DataType, GraphDef, NodeDef


def written(directory, graph):
    path = directory / "graph.pb"
    path.write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
    return path


def test_the_only_placeholder_and_the_only_end_are_the_signature(tmp_path):
    path = written(tmp_path, frozen_graph())
    done = convert_frozen_graph(path, tmp_path / "m")
    assert done.path == tmp_path / "m/1"
    content = read_saved_model(done.path)
    signature = content.signatures["serving_default"]
    assert str(signature.inputs["input"]) == "float [?, 4]"
    assert str(signature.outputs["predict"]) == "float [?, 3]"
    assert signature.method_name == "tensorflow/serving/predict"
    assert done.left_out == 1
    assert "NoOp" not in content.operations()


def test_the_command_takes_the_seeds_flags_and_dashes(tmp_path):
    path = written(tmp_path, frozen_graph())
    for version, sign in ((1, "_"), (2, "-")):
        flags = [
            f"--import{sign}path",
            str(path),
            f"--export{sign}dir",
            str(tmp_path / "m"),
            f"--model{sign}version",
            str(version),
        ]
        done = CliRunner().invoke(
            model_command, ["convert", *flags, "--inputs", "input", "--outputs", "predict", "--json"]
        )
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert report["path"] == str(tmp_path / "m" / str(version))
        assert report["outputs"] == {"predict": {"tensor": "predict:0", "dtype": "float", "shape": [-1, 3]}}
    assert CliRunner().invoke(model_command, ["convert", "--import_path", str(path)]).exit_code == 2


def test_an_existing_version_is_left_as_it_is(tmp_path):
    path = written(tmp_path, frozen_graph())
    convert_frozen_graph(path, tmp_path / "m")
    before = (tmp_path / "m/1/saved_model.pb").read_bytes()
    convert_frozen_graph(path, tmp_path / "m")  # the same again
    with pytest.raises(InputError, match="exists and is another model"):
        convert_frozen_graph(path, tmp_path / "m", outputs=["add"])
    assert (tmp_path / "m/1/saved_model.pb").read_bytes() == before
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def test_tensors_have_the_names_that_are_given(tmp_path):
    path = written(tmp_path, frozen_graph())
    done = convert_frozen_graph(path, tmp_path / "m", inputs=["image=input:0"], outputs=["scores=add", "predict"])
    assert (list(done.inputs), list(done.outputs)) == (["image"], ["scores", "predict"])


def test_a_node_inside_the_graph_becomes_the_input(tmp_path):
    path = written(tmp_path, frozen_graph())
    done = convert_frozen_graph(path, tmp_path / "m", inputs=["product"], outputs=["predict"])
    nodes = {node.name: node for node in read_saved_model(done.path).meta_graph.graph_def.node}
    assert nodes["product"].op == "Placeholder"
    assert set(nodes) == {"product", "bias", "add", "predict"}
    assert str(done.inputs["product"]) == "float [?, 3]"


def test_what_belongs_to_the_machine_that_made_it_is_left_out(tmp_path):
    graph = graph_of(classifier())
    for node in graph.node:
        node.device = "/device:GPU:0"
        node.attr["_class"].list.s.append(b"loc:@init")
    done = convert_frozen_graph(written(tmp_path, graph), tmp_path / "m")
    for node in read_saved_model(done.path).meta_graph.graph_def.node:
        assert not node.device
        assert "_class" not in node.attr


def two_ways():
    graph = GraphBuilder()
    a = graph.placeholder("a", DataType.DT_FLOAT, [2])
    b = graph.placeholder("b", DataType.DT_FLOAT, [2])
    graph.node("AddV2", "sum", [a, b], T=FLOAT)
    graph.node("Mul", "product", [a, b], T=FLOAT)
    graph.node("SomebodysOperation", "foreign", [a])
    return graph_of(graph)


def with_variable():
    graph = graph_of(classifier())
    next(node for node in graph.node if node.name == "weights").op = "VariableV2"
    return graph


def cut_off():
    graph = graph_of(classifier())
    graph.node.remove(next(node for node in graph.node if node.name == "bias"))
    return graph


def twice():
    graph = graph_of(classifier())
    graph.node.add().CopyFrom(graph.node[0])
    return graph


@pytest.mark.parametrize(
    ("graph", "arguments", "says", "hint"),
    [
        (two_ways(), {"outputs": ["sum"]}, "2 nodes that could be its input", "--inputs (of a, b)"),
        (two_ways(), {"inputs": ["a", "b"]}, "3 nodes that could be its output", "sum, product, foreign"),
        (two_ways(), {"inputs": ["a"], "outputs": ["sum"]}, "need b", "--inputs a,b"),
        (two_ways(), {"inputs": ["a", "b"], "outputs": ["foreign"]}, "type of foreign:0", "another tensor"),
        (two_ways(), {"inputs": ["a", "b"], "outputs": ["sum:1"]}, "type of sum:1", "another tensor"),
        (two_ways(), {"inputs": ["a", "b"], "outputs": ["nothing"]}, "no node nothing", "sum, product"),
        (two_ways(), {"inputs": ["a", "a"], "outputs": ["sum"]}, "two inputs are named a", "name=node"),
        (two_ways(), {"inputs": ["a", "b"], "outputs": ["^sum"]}, "names no tensor", "node:output"),
        (two_ways(), {"inputs": ["a", "sum"], "outputs": ["product"]}, "do not depend on sum", "Leave it out"),
        (with_variable(), {}, "weights is a variable", "freeze_graph"),
        (cut_off(), {}, "lacks the node bias", "again"),
        (twice(), {}, "share a name", "again"),
        (b"", {}, "no nodes", ".pb"),
        (b"\x0a\xff", {}, "cannot be parsed", "cut short"),
        (frozen_graph()[:-3], {}, "cannot be parsed", "cut short"),
        (frozen_graph(), {"version": 0}, "at least 1", "version 1"),
    ],
)
def test_what_cannot_be_converted_is_explained(tmp_path, graph, arguments, says, hint):
    with pytest.raises(SealserveError, match=says) as caught:
        convert_frozen_graph(written(tmp_path, graph), tmp_path / "m", **arguments)
    assert hint in caught.value.hint
    assert not (tmp_path / "m").exists()


def test_a_missing_file_a_directory_and_a_pipe_are_no_graphs(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("none", "No such file"), (".", "Is a directory"), ("pipe", "no file")):
        with pytest.raises(InputError, match=says):
            convert_frozen_graph(tmp_path / name, tmp_path / "m")


def test_a_shape_is_told_where_rules_tell_it(tmp_path):
    graph = classifier()
    shape = graph.constant("shape", np.array([-1, 3, 1], np.int32))
    graph.node("Reshape", "column", ["predict", shape], T=FLOAT)
    graph.node("MatMul", "turned", ["weights", "weights"], T=FLOAT, transpose_a=True, transpose_b=False)
    graph.node("Sum", "unknown", ["predict", shape], T=FLOAT)
    noted = AttrValue(list=AttrValue.ListValue(shape=[{"dim": [{"size": 7}]}]))
    graph.node("Sum", "noted", ["predict", shape], T=FLOAT, _output_shapes=noted)
    done = convert_frozen_graph(
        written(tmp_path, graph_of(graph)),
        tmp_path / "m",
        inputs=["input"],
        outputs=["column", "turned", "unknown", "noted"],
    )
    assert [spec.shape for spec in done.outputs.values()] == [(-1, 3, 1), (3, 3), None, (7,)]


def test_a_graph_that_goes_in_a_circle_ends(tmp_path):
    graph = GraphDef()
    for name, other in (("a", "b"), ("b", "a")):
        graph.node.append(NodeDef(name=name, op="Identity", input=[other], attr={"T": FLOAT}))
    graph.node.append(NodeDef(name="x", op="Placeholder", attr={"dtype": type_attribute(1)}))
    with pytest.raises(ModelError, match="do not depend on x"):
        convert_frozen_graph(written(tmp_path, graph), tmp_path / "m", outputs=["a"])


@settings(max_examples=25)
@given(data=st.data())
def test_mutated_graphs_end_in_a_model_or_an_error_of_ours(tmp_path_factory, data):
    graph = bytearray(frozen_graph())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(graph) - 1))
        graph[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    directory = tmp_path_factory.mktemp("mutated")
    try:
        done = convert_frozen_graph(written(directory, bytes(graph)), directory / "m")
    except SealserveError:
        assert not (directory / "m").exists()
    else:
        assert read_saved_model(done.path).signatures


def test_the_work_of_finding_shapes_grows_with_the_graph_alone(tmp_path):
    graph = GraphBuilder()
    last = graph.placeholder("input", DataType.DT_FLOAT, [5, 5])
    for number in range(2000):  # each node asks twice for the one before it
        last = graph.node("MatMul", f"product{number}", [last, last], T=FLOAT)
    path = tmp_path / "graph.pb"
    path.write_bytes(graph_of(graph).SerializeToString())
    done = convert_frozen_graph(path, tmp_path / "m")
    assert done.outputs[last].shape == (5, 5)


def test_a_graph_that_leads_back_to_itself_has_no_shapes(tmp_path):
    graph = GraphBuilder()
    x = graph.placeholder("input", DataType.DT_FLOAT, [5, 5])
    graph.node("Relu", "a", ["b"], T=FLOAT)
    graph.node("Identity", "b", ["a"], T=FLOAT)
    graph.node("MatMul", "predict", [x, "b", f"^{x}"], T=FLOAT)
    path = tmp_path / "graph.pb"
    path.write_bytes(graph_of(graph).SerializeToString())
    assert convert_frozen_graph(path, tmp_path / "m").outputs["predict"].shape == (5, -1)


def test_a_function_that_is_given_to_a_function_is_kept(tmp_path):
    graph = GraphBuilder()
    x = graph.placeholder("input", DataType.DT_FLOAT, [5])
    graph.node("Identity", "predict", [x], T=FLOAT)
    message = graph_of(graph)
    for name in ("outer", "inner", "unused"):
        message.library.function.add().signature.name = name
    outer = message.node[1].attr["f"].func
    outer.name = "outer"
    outer.attr["g"].func.name = "inner"
    done = convert_frozen_graph(written(tmp_path, message), tmp_path / "m")
    kept = read_saved_model(done.path).meta_graph.graph_def.library.function
    assert {function.signature.name for function in kept} == {"outer", "inner"}
