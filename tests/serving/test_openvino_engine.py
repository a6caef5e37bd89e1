"""The OpenVINO engine on graphs written here; graphs of TensorFlow's making are in ``test_with_tensorflow.py``."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_models import affine_model, load

from sealserve.errors import ModelError
from sealserve.models.graph import GraphBuilder, TensorInGraph, shape_message, type_attribute
from sealserve.models.writing import write_saved_model
from sealserve.serving.errors import CallerGoneError, RequestError, SignatureNotFoundError
from sealserve.serving.model_files import MemoryFiles, directory_files
from sealserve.serving.openvino_engine import OpenVinoEngine
from sealserve.wire.bfloat16 import narrow, widen
from sealserve.wire.tensorflow_pb2 import AttrValue, DataType, NodeDef, TensorProto
from sealserve.wire.tensors import tensor_type


def test_a_model_answers_and_its_answers_are_the_callers_own(engine, half_plus_two):
    model = load(engine, half_plus_two)
    x = np.array([1, 2, 5], np.float32)
    x.flags.writeable = False
    first = model.predict("serving_default", {"x": x})
    model.predict("serving_default", {"x": x * 100})
    assert first["y"].tolist() == [2.5, 3.0, 4.5]
    assert first["y"].dtype == np.float32


def test_views_and_empty_batches_are_answered(engine, half_plus_two):
    model = load(engine, half_plus_two)
    x = np.arange(6, dtype=np.float32)
    assert model.predict("serving_default", {"x": x[::-2]})["y"].tolist() == [4.5, 3.5, 2.5]
    assert model.predict("serving_default", {"x": np.broadcast_to(np.float32(2), (2,))})["y"].tolist() == [3, 3]
    assert model.predict("serving_default", {"x": x[:0]})["y"].shape == (0,)


def test_many_threads_get_their_own_answers(engine, half_plus_two):
    model = load(engine, half_plus_two)

    def ask(number):
        x = np.full(100 + number, number, np.float32)
        return bool(np.all(model.predict("serving_default", {"x": x})["y"] == number / 2 + 2))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))


@pytest.mark.parametrize("model", ["computes nothing", "gives an input back"])
def test_no_answer_has_anything_of_an_earlier_request(tmp_path, model):
    message = affine_model(1, 0)
    if model == "gives an input back":
        message.meta_graphs[0].signature_def["serving_default"].outputs["y"].name = "x:0"
    loaded = load(OpenVinoEngine(threads=1, parallel_requests=1), write_saved_model(tmp_path, 1, message))
    generator = np.random.default_rng(0)
    for size in [40000, 20, *range(1, 100), *generator.integers(1, 40000, 100)]:
        x = generator.random(size).astype(np.float32)
        assert np.array_equal(loaded.predict("serving_default", {"x": x})["y"], x)


def test_requests_that_do_not_fit_never_reach_the_engine(engine, half_plus_two):
    model = load(engine, half_plus_two)
    # OpenVINO itself would convert the first and broadcast the second.
    for x in (np.array([1.0]), np.array(1, np.float32)):
        with pytest.raises(RequestError):
            model.predict("serving_default", {"x": x})
    with pytest.raises(RequestError, match="duplicate"):
        model.predict("serving_default", {"x": np.zeros(1, np.float32)}, ["y", "y"])
    with pytest.raises(SignatureNotFoundError, match='Serving signature key "other" not found') as caught:
        model.predict("other", {"x": np.zeros(1, np.float32)})
    assert caught.value.code == "FAILED_PRECONDITION"


def test_nothing_is_computed_for_a_caller_that_is_gone(engine, half_plus_two):
    model = load(engine, half_plus_two)
    with pytest.raises(CallerGoneError):
        model.predict("serving_default", {"x": np.zeros(1, np.float32)}, wanted=lambda: False)


def test_a_caller_that_leaves_while_it_waits_is_let_go(half_plus_two):
    model = load(OpenVinoEngine(threads=1, parallel_requests=1), half_plus_two)
    compiled = model._compiled["serving_default"]
    gone = threading.Event()
    taken = compiled.requests.turns.take(lambda: True)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            model.predict, "serving_default", {"x": np.zeros(1, np.float32)}, wanted=lambda: not gone.is_set()
        )
        assert not waiting.done()
        gone.set()
        with pytest.raises(CallerGoneError):
            waiting.result(10)
    compiled.requests.turns.give_back(taken)
    assert model.predict("serving_default", {"x": np.zeros(1, np.float32)})["y"].tolist() == [2.0]


def test_a_model_in_memory_loads_and_outlives_its_files(engine, half_plus_two):
    with MemoryFiles() as files:
        with files.add("saved_model.pb") as file:
            file.write((half_plus_two / "saved_model.pb").read_bytes())
        model = engine.load(files)
    assert model.predict("serving_default", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]


def test_loading_opens_no_file_of_the_model_by_its_name(engine, half_plus_two, tmp_path):
    # Whoever rules over the directory could have put another file there after the check.
    copy = tmp_path / "1"
    shutil.copytree(half_plus_two, copy)
    with directory_files(copy) as files:
        shutil.rmtree(copy)
        write_saved_model(tmp_path, 1, affine_model(9, 9))
        model = engine.load(files)
    assert model.predict("serving_default", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]


def test_files_without_a_saved_model_are_refused(engine):
    with pytest.raises(ModelError, match=r"it has no saved_model\.pb"):
        engine.load({})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("other.tflite", b"", r"other\.tflite is a TensorFlow Lite model"),
        ("model.tflite", b"", "OpenVINO cannot run"),
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(100), "OpenVINO cannot run"),
    ],
    ids=["name", "empty", "malformed"],
)
def test_a_tensorflow_lite_model_that_cannot_be_read_is_refused(engine, name, content, says):
    with MemoryFiles() as files:
        with files.add(name) as file:
            file.write(content)
        with pytest.raises(ModelError, match=says):
            engine.load(files)


def test_a_light_model_answers_small_and_large_requests_within_its_bound_of_requests(half_plus_two):
    model = load(OpenVinoEngine(threads=2, parallel_requests=1), half_plus_two)
    sizes = [1, 1024, 1025, 100_000, 0, 7, 100_000, 1]
    for size in sizes:
        x = np.arange(size, dtype=np.float32)
        assert np.array_equal(model.predict("serving_default", {"x": x})["y"], x / 2 + 2)

    def ask(size):
        x = np.full(size, size, np.float32)
        return np.array_equal(model.predict("serving_default", {"x": x})["y"], x / 2 + 2)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, sizes * 20))
    requests = model._compiled["serving_default"].requests
    requests.turns.take(lambda: True)
    with pytest.raises(CallerGoneError):  # there is one, for small and large together
        requests.turns.take(iter([True, False]).__next__)


def test_an_operation_that_openvino_lacks_is_named_with_a_way_out(engine, tmp_path):
    version = write_saved_model(tmp_path, 1, affine_model(1, 1, operation="StringUpper"))
    with pytest.raises(ModelError, match="cannot convert the operation StringUpper") as caught:
        load(engine, version)
    assert "`engine: tensorflow`" in caught.value.hint


def test_every_operation_that_openvino_lacks_is_named(engine, tmp_path):
    message = affine_model(1, 1, operation="StringUpper")
    product = next(node for node in message.meta_graphs[0].graph_def.node if node.name == "product")
    product.op = "NoSuchOperation"
    with pytest.raises(ModelError, match="operations NoSuchOperation, StringUpper"):
        load(engine, write_saved_model(tmp_path, 1, message))


def test_a_graph_that_lacks_a_signatures_tensor_is_refused(engine, tmp_path):
    message = affine_model(1, 1)
    message.meta_graphs[0].signature_def["serving_default"].outputs["y"].name = "missing:0"
    with pytest.raises(ModelError):
        load(engine, write_saved_model(tmp_path, 1, message))


@pytest.mark.parametrize("alias", ["x", "y"])
def test_a_signature_that_lies_about_a_type_is_refused(engine, tmp_path, alias):
    message = affine_model(1, 1)
    definition = message.meta_graphs[0].signature_def["serving_default"]
    (definition.inputs if alias == "x" else definition.outputs)[alias].dtype = 3
    with pytest.raises(ModelError, match=f"{alias} is int32 there, and f32 in OpenVINO's model"):
        load(engine, write_saved_model(tmp_path, 1, message))


def test_a_cut_short_file_is_refused(engine, half_plus_two, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes((half_plus_two / "saved_model.pb").read_bytes()[:-20])
    with pytest.raises(ModelError, match="cannot be parsed"):
        load(engine, tmp_path)


@pytest.mark.parametrize(
    ("code", "fits", "too_large"),
    [
        ("i8", [-(1 << 31), (1 << 31) - 1], [1 << 31, -(1 << 31) - 1, 1 << 40]),
        ("u8", [0, (1 << 31) - 1], [1 << 31, 1 << 63]),
        ("u4", [0, (1 << 31) - 1], [1 << 31]),
        ("f8", [-1e38, 1e38, np.nan], [1e39, -1e39, np.inf, -np.inf]),
    ],
)
def test_a_number_too_large_for_the_type_openvino_computes_in_is_refused(engine, tmp_path, code, fits, too_large):
    # OpenVINO computes these as int32 and float32, and would answer with the wrapped number.
    data_type = tensor_type(np.dtype(code))
    graph = GraphBuilder()
    x = graph.placeholder("x", data_type, [-1])
    graph.node("Mul", "y", [x, graph.constant("one", np.ones((), code))], T=type_attribute(data_type))
    x, y = (TensorInGraph(f"{name}:0", data_type, (-1,)) for name in "xy")
    message = graph.saved_model({"x": x}, {"y": y}, signature="serving_default")
    model = load(engine, write_saved_model(tmp_path, 1, message))
    answer = model.predict("serving_default", {"x": np.array(fits, code)})["y"]
    assert answer.dtype == code
    assert np.allclose(answer, np.array(fits, code), rtol=1e-6, equal_nan=True)
    assert model.predict("serving_default", {"x": np.array([], code)})["y"].size == 0
    for number in too_large:
        with pytest.raises(RequestError, match="out of the range of"):
            model.predict("serving_default", {"x": np.array([1, number], code)})


def field(number, value):
    """A field of a protobuf message of less than 128 bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(data)]) + data


def onnx_model(operation, kind=1):
    """``y = operation(x, x)`` for [n, 4] of a type (float32), as the messages of ``onnx.proto``."""

    def tensor(name):
        shape = field(1, field(2, "n")) + field(1, field(1, 4))
        return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))

    node = field(1, "x") + field(1, "x") + field(2, "y") + field(4, operation)
    graph = field(1, node) + field(2, "g") + field(11, tensor("x")) + field(12, tensor("y"))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def test_an_onnx_model_answers_and_describes_itself(engine):
    with MemoryFiles() as files:
        with files.add("model.onnx") as file:
            file.write(onnx_model("Add"))
        model = engine.load(files)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(model.predict("serving_default", {"x": x})["y"], x * 2)
    with pytest.raises(RequestError, match="Incompatible shape"):
        model.predict("serving_default", {"x": x[:, :3]})
    told = model.signature_definitions["serving_default"].inputs["x"]
    assert (told.dtype, [dim.size for dim in told.tensor_shape.dim]) == (1, [-1, 4])


def test_an_onnx_model_of_bfloat16_is_not_taken_for_one_of_float16(engine):
    with MemoryFiles() as files:
        with files.add("model.onnx") as file:
            file.write(onnx_model("Add", 16))
        model = engine.load(files)
    x = narrow(np.float32([[1.5, -2, 3e38, 0.25]]))
    assert widen(model.predict("serving_default", {"x": x})["y"]).tolist() == [[3, -4, np.inf, 0.5]]
    assert model.signature_definitions["serving_default"].outputs["y"].dtype == DataType.DT_BFLOAT16


@pytest.mark.parametrize("inside", ["graph", "function"])
def test_constants_of_bfloat16_are_read_as_lists_of_values_too(engine, inside):
    bfloat16, number = DataType.DT_BFLOAT16, type_attribute(DataType.DT_BFLOAT16)
    one_and_half = TensorProto(
        dtype=bfloat16, tensor_shape=shape_message([2]), half_val=[0x3FC0]
    )  # the last one repeats
    constant = NodeDef(name="c", op="Const", attr={"dtype": number, "value": AttrValue(tensor=one_and_half)})
    graph = GraphBuilder()
    x = graph.placeholder("x", bfloat16, [-1, 2])
    if inside == "graph":
        factor = graph.node("Const", "c", [], dtype=number, value=constant.attr["value"])
    else:
        factor = graph.node(
            "PartitionedCall",
            "call",
            [],
            Tout=AttrValue(list={"type": [bfloat16]}),
            f=AttrValue(func={"name": "factor"}),
        )
    graph.node("Mul", "y", [x, factor], T=number)
    tensors = {name: TensorInGraph(f"{name}:0", bfloat16, (-1, 2)) for name in ("x", "y")}
    message = graph.saved_model({"x": tensors["x"]}, {"y": tensors["y"]}, signature="serving_default")
    function = message.meta_graphs[0].graph_def.library.function.add(node_def=[constant], ret={"value": "c:output:0"})
    function.signature.name = "factor"
    function.signature.output_arg.add(name="value", type=bfloat16)
    with MemoryFiles() as files:
        with files.add("saved_model.pb") as file:
            file.write(message.SerializeToString())
        model = engine.load(files)
    answer = model.predict("serving_default", {"x": narrow(np.float32([[2, -3]]))})["y"]
    assert widen(answer).tolist() == [[3, -4.5]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (onnx_model("Identity", 17), "x of model.onnx cannot be served: it is f8e4m3"),
        (onnx_model("NoSuchOperation"), "cannot convert the operation NoSuchOperation"),
        (b"", "no output in"),
        (b"\x08\x08\x3a\xff", "cannot be parsed|can't be parsed"),
    ],
    ids=["float8", "operation", "empty", "malformed"],
)
def test_an_onnx_model_that_openvino_cannot_run_is_refused(engine, content, says):
    with MemoryFiles() as files:
        with files.add("model.onnx") as file:
            file.write(content)
        with pytest.raises(ModelError, match=says) as caught:
            engine.load(files)
    assert "tensorflow" not in caught.value.hint
