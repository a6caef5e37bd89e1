"""Signatures that compute the same are compiled once; others, however alike, are not."""

from __future__ import annotations

import numpy as np
import pytest

from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.serving.frozen_graph import freeze
from sealserve.serving.model_files import MemoryFiles
from sealserve.serving.same_graph import Descriptions
from sealserve.serving.weights import Weights
from sealserve.wire.tensorflow_pb2 import AttrValue, DataType, FunctionDef, NameAttrList, NodeDef, OpDef
from sealserve.wire.tensors import tensor_type

FLOAT = type_attribute(DataType.DT_FLOAT)


class Graph:
    """Signatures of one graph, each with nodes of its own."""

    def __init__(self):
        self.builder = GraphBuilder()
        self._signatures = {}
        self.constant("weights", np.arange(2048, dtype=np.float32) / 1000)
        self.constant("other weights", np.arange(2048, dtype=np.float32) / 1000)

    def constant(self, name, value):
        return self.builder.constant(name, np.asarray(value))

    def input(self, name, shape=(-1, 2048), kind=DataType.DT_FLOAT):
        return self.builder.placeholder(name, kind, shape)

    def node(self, operation, name, *inputs, **attributes):
        attributes.setdefault("T", FLOAT)
        return self.builder.node(operation, name, inputs, **attributes)

    def signature(self, name, inputs, outputs, kind=DataType.DT_FLOAT, shape=(-1, 2048)):
        self._signatures[name] = [
            {alias: TensorInGraph(f"{node}:0", kind, shape) for alias, node in one.items()} for one in (inputs, outputs)
        ]

    def saved_model(self, *functions):
        message = None
        for name, (inputs, outputs) in self._signatures.items():
            made = self.builder.saved_model(inputs, outputs, signature=name)
            if message is None:
                message = made
            else:
                definition = made.meta_graphs[0].signature_def[name]
                message.meta_graphs[0].signature_def[name].CopyFrom(definition)
        message.meta_graphs[0].graph_def.library.function.extend(functions)
        return message


def same(message):
    """Whether the model's two signatures are told to be the same."""
    meta_graph, descriptions = message.meta_graphs[0], Descriptions()
    values = Weights(meta_graph.graph_def, {})
    one, other = (descriptions.describe(freeze(meta_graph, name, values)) for name in meta_graph.signature_def)
    return one is not None and other is not None and one.digest == other.digest


def load(engine, message):
    with MemoryFiles() as files:
        with files.add("saved_model.pb") as file:
            file.write(message.SerializeToString())
        return engine.load(files)


def scaled(graph, prefix, *, weights="weights", scale=2.0, operation="Mul", shape=(-1, 2048), alias="x", answer="y"):
    """A signature ``x op weights * scale``, whose nodes have the prefix."""
    x = graph.input(f"{prefix}/x", shape)
    product = graph.node(operation, f"{prefix}/product", x, weights)
    y = graph.node("Mul", f"{prefix}/y", product, graph.constant(f"{prefix}/scale", np.float32(scale)))
    graph.signature(prefix, {alias: x}, {answer: y}, shape=shape)


def test_signatures_of_one_computation_are_compiled_once_and_answer_under_their_names(engine):
    graph = Graph()
    scaled(graph, "first", alias="a", answer="b")
    scaled(graph, "second", alias="c", answer="d")
    model = load(engine, graph.saved_model())
    compiled = model._compiled
    assert compiled["first"].requests is compiled["second"].requests
    x = np.ones((2, 2048), np.float32)
    expected = x * np.arange(2048, dtype=np.float32) / 1000 * 2
    assert np.allclose(model.predict("first", {"a": x})["b"], expected)
    assert np.allclose(model.predict("second", {"c": x * 3})["d"], expected * 3)


@pytest.mark.parametrize(("other", "is_same"), [("values", True), ("indices", False)])
def test_outputs_are_told_apart_by_their_names_where_functions_were_opened(other, is_same):
    graph = Graph()
    for name, output in (("first", "values"), ("second", other)):
        x = graph.input(f"{name}/x")
        top = graph.node("TopKV2", f"{name}/top", x, "weights")
        y = graph.node("Neg", f"{name}/y", f"{top}:{output}:0")
        graph.signature(name, {"x": x}, {"y": y})
    assert same(graph.saved_model()) == is_same


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": "other weights"},
        {"scale": 2.5},
        {"operation": "Sub"},
        {"shape": (-1, -1)},
        {"shape": (3, 2048)},
    ],
)
def test_signatures_that_differ_are_compiled_each(engine, changed):
    graph = Graph()
    scaled(graph, "first")
    scaled(graph, "second", **changed)
    message = graph.saved_model()
    assert not same(message)
    model = load(engine, message)
    x, weights = np.ones((3, 2048), np.float32), np.arange(2048, dtype=np.float32) / 1000
    assert np.allclose(model.predict("first", {"x": x})["y"], weights * 2)
    expected = (1 - weights if changed.get("operation") else weights) * changed.get("scale", 2.0)
    assert np.allclose(model.predict("second", {"x": x})["y"], np.broadcast_to(expected, x.shape), atol=1e-6)


def differences(graph, prefix, order, aliases=("a", "b"), answers=("y",)):
    inputs = {alias: graph.input(f"{prefix}/{alias}", (-1,)) for alias in aliases}
    first, second = (inputs[aliases[index]] for index in order)
    y = graph.node("Sub", f"{prefix}/y", first, second)
    outputs = {answers[0]: y}
    if len(answers) > 1:
        outputs[answers[1]] = graph.node("Mul", f"{prefix}/z", y, y)
    graph.signature(prefix, inputs, outputs, shape=(-1,))


@pytest.mark.parametrize("second_order", [(0, 1), (1, 0)])
def test_inputs_whose_names_are_the_other_way_round_get_their_own_values(engine, second_order):
    graph = Graph()
    differences(graph, "first", (0, 1))
    differences(graph, "second", second_order)
    model = load(engine, graph.saved_model())
    given = {"a": np.float32([5, 7]), "b": np.float32([1, 2])}
    assert model.predict("first", given)["y"].tolist() == [4, 5]
    assert model.predict("second", given)["y"].tolist() == ([4, 5] if second_order == (0, 1) else [-4, -5])


def test_outputs_whose_names_sort_the_other_way_round_are_not_mixed_up(engine):
    graph = Graph()
    differences(graph, "first", (0, 1), answers=("p", "q"))
    differences(graph, "second", (0, 1), answers=("q", "p"))
    model = load(engine, graph.saved_model())
    given = {"a": np.float32([5, 7]), "b": np.float32([1, 2])}
    assert {name: array.tolist() for name, array in model.predict("first", given).items()} == {
        "p": [4, 5],
        "q": [16, 25],
    }
    second = {name: array.tolist() for name, array in model.predict("second", given).items()}
    assert second == {"q": [4, 5], "p": [16, 25]}


def test_one_input_twice_is_not_two_inputs():
    graph = Graph()
    x = graph.input("first/x", (-1,))
    graph.signature("first", {"x": x}, {"y": graph.node("Add", "first/y", x, x)}, shape=(-1,))
    a, b = graph.input("second/a", (-1,)), graph.input("second/b", (-1,))
    graph.signature("second", {"a": a, "b": b}, {"y": graph.node("Add", "second/y", a, b)}, shape=(-1,))
    assert not same(graph.saved_model())


def test_two_random_numbers_are_not_one_twice():
    graph = Graph()
    shape = graph.constant("shape", np.int32([3]))
    for prefix, count in (("first", 1), ("second", 2)):
        x = graph.input(f"{prefix}/x", (-1,))
        noise = [
            graph.node(
                "RandomUniform", f"{prefix}/noise{index}", shape, T=type_attribute(DataType.DT_INT32), dtype=FLOAT
            )
            for index in range(count)
        ]
        total = graph.node("Add", f"{prefix}/total", noise[0], noise[-1])
        graph.signature(prefix, {"x": x}, {"y": graph.node("Add", f"{prefix}/y", total, x)}, shape=(-1,))
    assert not same(graph.saved_model())


def test_an_input_that_nothing_uses_makes_a_signature_the_same_as_no_other():
    graph = Graph()
    for prefix in ("first", "second"):
        x, unused = graph.input(f"{prefix}/x", (-1,)), graph.input(f"{prefix}/unused", (-1,))
        y = graph.node("Neg", f"{prefix}/y", x)
        graph.signature(prefix, {"x": x, "unused": unused}, {"y": y}, shape=(-1,))
    assert not same(graph.saved_model())


def function(name, *nodes, unknown=b""):
    made = FunctionDef(signature=OpDef(name=name), node_def=nodes)
    made.signature.input_arg.add(name="x", type=DataType.DT_FLOAT)
    made.MergeFromString(unknown)
    return made


def calling(*functions, callee=("f", "g")):
    graph = Graph()
    for prefix, name in zip(("first", "second"), callee, strict=True):
        x = graph.input(f"{prefix}/x", (-1,))
        f = AttrValue(func=NameAttrList(name=name))
        y = graph.node("StatefulPartitionedCall", f"{prefix}/y", x, f=f)
        graph.signature(prefix, {"x": x}, {"y": y}, shape=(-1,))
    return graph.saved_model(*functions)


def call(name):
    return NodeDef(name="call", op="PartitionedCall", attr={"f": AttrValue(func=NameAttrList(name=name))}, input=["x"])


NEG, ABS = (NodeDef(name="n", op=op, input=["x"]) for op in ("Neg", "Abs"))
FUNCTIONS = {
    "the same nodes": (True, function("f", NEG), function("g", NEG)),
    "other nodes": (False, function("f", NEG), function("g", ABS)),
    "more nodes": (False, function("f", NEG), function("g", NEG, ABS)),
    "the same function further down": (True, function("f", call("h")), function("g", call("h")), function("h", NEG)),
    "functions alike further down": (
        True,
        *(function("f", call("h")), function("g", call("i")), function("h", NEG), function("i", NEG)),
    ),
    "another function further down": (
        False,
        *(function("f", call("h")), function("g", call("i")), function("h", NEG), function("i", ABS)),
    ),
    "another result": (
        False,
        *(
            function("f", NEG, unknown=b"\x22\x06\n\x01a\x12\x01b"),
            function("g", NEG, unknown=b"\x22\x06\n\x01a\x12\x01c"),
        ),
    ),
    "arguments that were called otherwise": (
        True,
        *(function("f", NEG, unknown=b"\x3a\x02ab"), function("g", NEG, unknown=b"\x3a\x02ac")),
    ),
    "a function that calls itself": (False, function("f", call("f")), function("g", call("g"))),
    "a function that is not there": (False, function("f", call("h")), function("g", call("h"))),
}


@pytest.mark.parametrize("case", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_are_the_same_if_they_do_the_same(case):
    expected, *functions = case
    assert same(calling(*functions)) is expected


def test_what_is_unknown_of_a_node_counts_but_for_the_names_that_it_had():
    strange, other, named = (NodeDef(name="n", op="Neg", input=["x"]) for _ in range(3))
    strange.MergeFromString(b"\x3a\x02ab")
    other.MergeFromString(b"\x3a\x02ac")
    named.MergeFromString(b"\x32\x02ab")  # names in the program that made it
    assert same(calling(function("f", strange), function("g", strange)))
    assert not same(calling(function("f", strange), function("g", other)))
    assert not same(calling(function("f", strange), function("g", NEG)))
    assert same(calling(function("f", named), function("g", NEG)))


@pytest.mark.parametrize("code", ["f4", "i4"])
def test_a_type_is_part_of_it(code):
    graph = Graph()
    for prefix, kind in (("first", "f4"), ("second", code)):
        number = tensor_type(np.dtype(kind))
        x = graph.input(f"{prefix}/x", (-1,), number)
        y = graph.node("Neg", f"{prefix}/y", x, T=type_attribute(number))
        graph.signature(prefix, {"x": x}, {"y": y}, number, (-1,))
    assert same(graph.saved_model()) is (code == "f4")
