"""KServe's protocol over gRPC: every datatype in both forms, and nothing allocated for what is only declared."""

from __future__ import annotations

import struct

import grpc
import numpy as np
import pytest
from example_models import FunctionModel
from hypothesis import given
from hypothesis import strategies as st

from sealserve.models.saved_model import TensorSpec
from sealserve.serving import open_inference
from sealserve.serving.core import ModelServer
from sealserve.serving.errors import RequestError, ServableNotFoundError, SignatureNotFoundError, UnsupportedError
from sealserve.serving.open_inference.datatypes import DATATYPES
from sealserve.wire import open_inference_pb2 as pb2
from sealserve.wire.bfloat16 import widen
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensors import tensor_type

TYPES = {name: kind.item for name, kind in DATATYPES.items()}
VALUES = {
    "BOOL": [[True, False, True]],
    "FP16": [[0.5, -2, 65504]],
    "BF16": [[(0x3F00,), (0xC000,), (0x7F80,)]],
    "FP32": [[0.5, -2, 1e30]],
    "FP64": [[0.5, -2, 1e300]],
    "BYTES": [[b"", b"abc", "\u00e9".encode()]],
}


def echo_model(kinds=tuple(TYPES)):
    """Gives back ``x``, a signature for each type named by it."""
    inputs = {name: {"x": TensorSpec("x:0", tensor_type(TYPES[name]), None)} for name in kinds}
    outputs = {name: [("x", inputs[name]["x"].data_type)] for name in kinds}
    return FunctionModel({name: lambda x: {"x": x} for name in kinds}, outputs, inputs)


def affine_model():
    """``y`` = ``a`` * 2 + ``b``, and ``z`` = ``a``, for float32 vectors."""
    spec = TensorSpec("a:0", DataType.DT_FLOAT, (-1,))
    return FunctionModel(
        {"serving_default": lambda a, b: {"y": a * 2 + b, "z": a}},
        {"serving_default": ["y", "z"]},
        {"serving_default": {"a": spec, "b": spec}},
    )


@pytest.fixture
def core():
    core = ModelServer()
    core.add_model("echo", 1, echo_model())
    core.add_model("affine", 4, affine_model())
    core.add_model("affine", 7, affine_model())
    return core


def array_of(datatype):
    values = VALUES.get(datatype) or [[0, 1, np.iinfo(TYPES[datatype]).max]]
    return np.array(values, TYPES[datatype])


def raw_of(array):
    if array.dtype.kind == "O":
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel())
    return array.tobytes()


def request(model="affine", version="", **settings):
    return pb2.ModelInferRequest(model_name=model, model_version=version, **settings)


def echo_request(datatype, array, *, raw):
    message = request("echo")
    message.parameters["signature_name"].string_param = datatype
    tensor = message.inputs.add(name="x", datatype=datatype, shape=array.shape)
    if raw:
        message.raw_input_contents.append(raw_of(array))
    else:
        values = widen(array) if datatype == "BF16" else array
        getattr(tensor.contents, DATATYPES[datatype].field).extend(values.ravel().tolist())
    return message


def affine_request(a=(1, 2), b=(3, 4), **settings):
    message = request(**settings)
    for name, values in (("a", a), ("b", b)):
        tensor = message.inputs.add(name=name, datatype="FP32", shape=[len(values)])
        tensor.contents.fp32_contents.extend(values)
    return message


@pytest.mark.parametrize("datatype", TYPES)
def test_raw_inputs_have_raw_outputs(core, datatype):
    array = array_of(datatype)
    answer = open_inference.infer(core, echo_request(datatype, array, raw=True))
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", datatype, [1, 3])
    assert list(answer.raw_output_contents) == [raw_of(array)]
    assert not output.HasField("contents")


@pytest.mark.parametrize("datatype", [name for name in TYPES if name not in {"FP16", "BF16"}])
def test_typed_inputs_have_typed_outputs(core, datatype):
    array = array_of(datatype)
    answer = open_inference.infer(core, echo_request(datatype, array, raw=False))
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", datatype, [1, 3])
    assert list(getattr(output.contents, DATATYPES[datatype].field)) == array.ravel().tolist()
    assert not answer.raw_output_contents


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_comes_back_raw_because_the_protocol_has_no_other_form(core, datatype):
    array = array_of(datatype)
    answer = open_inference.infer(core, echo_request(datatype, array, raw=False))
    assert answer.outputs[0].datatype == datatype
    assert list(answer.raw_output_contents) == [array.tobytes()]


def test_bfloat16_is_given_to_a_model_of_float32(core):
    message = request("echo")
    message.parameters["signature_name"].string_param = "FP32"
    message.inputs.add(name="x", datatype="BF16", shape=[3])
    message.raw_input_contents.append(np.array([0x3FC0, 0xC000, 0x7F80], "<u2").tobytes())
    answer = open_inference.infer(core, message)
    assert answer.outputs[0].datatype == "FP32"
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [1.5, -2, np.inf]


def test_empty_tensors_pass_in_both_forms(core):
    for datatype, item in TYPES.items():
        for raw in (True, False):
            array = np.zeros((0, 3), item)
            answer = open_inference.infer(core, echo_request(datatype, array, raw=raw))
            assert list(answer.outputs[0].shape) == [0, 3]


def test_outputs_are_those_asked_for_in_their_order_and_the_id_comes_back(core):
    message = affine_request(id="42")
    answer = open_inference.infer(core, message)
    assert (answer.id, answer.model_name, answer.model_version) == ("42", "affine", "7")
    assert [output.name for output in answer.outputs] == ["y", "z"]
    assert list(answer.outputs[0].contents.fp32_contents) == [5, 8]
    message.outputs.add(name="z")
    assert [output.name for output in open_inference.infer(core, message).outputs] == ["z"]
    message.outputs.add(name="y")
    assert [output.name for output in open_inference.infer(core, message).outputs] == ["z", "y"]
    message.outputs.add(name="other")
    with pytest.raises(RequestError, match="output tensor alias not found in signature: other"):
        open_inference.infer(core, message)


def test_a_version_is_chosen_by_number_or_label(core):
    core.set_labels("affine", {"stable": 4})
    for version, answered in (("", "7"), ("4", "4"), ("7", "7"), ("stable", "4")):
        assert open_inference.infer(core, affine_request(version=version)).model_version == answered
    for version in ("5", "9" * 19):
        with pytest.raises(ServableNotFoundError):
            open_inference.infer(core, affine_request(version=version))
    for version in ("9" * 40, "-1", "canary"):
        with pytest.raises(RequestError, match="Unrecognized servable version label"):
            open_inference.infer(core, affine_request(version=version))
    with pytest.raises(RequestError, match="more than 1024"):
        open_inference.infer(core, affine_request(version="9" * 2000))


@pytest.mark.parametrize("name", ["shared_memory_region", "sequence_id", "classification"])
def test_parameters_that_change_the_meaning_are_refused_wherever_they_are(core, name):
    for place in ("request", "input", "output"):
        message = affine_request()
        holder = {"request": message, "input": message.inputs[1], "output": message.outputs.add(name="y")}[place]
        holder.parameters[name].int64_param = 1
        with pytest.raises(UnsupportedError, match=f"the parameter {name} is not supported"):
            open_inference.infer(core, message)


def test_other_parameters_are_hints(core):
    message = affine_request()
    message.parameters["priority"].int64_param = 3
    message.inputs[0].parameters["content_type"].string_param = "np"
    assert open_inference.infer(core, message).outputs


def test_a_signatures_name_is_a_string_and_must_be_there(core):
    message = affine_request()
    message.parameters["signature_name"].int64_param = 1
    with pytest.raises(RequestError, match="signature_name is no string"):
        open_inference.infer(core, message)
    message.parameters["signature_name"].string_param = "other"
    with pytest.raises(SignatureNotFoundError, match='"other" not found'):
        open_inference.infer(core, message)
    with pytest.raises(SignatureNotFoundError, match='"serving_default" not found'):
        open_inference.infer(core, request("echo"))


def test_the_only_signature_answers_who_names_none(core):
    core.add_model("one", 1, echo_model(["INT64"]))
    message = request("one")
    message.inputs.add(name="x", datatype="INT64", shape=[1]).contents.int64_contents.append(5)
    assert open_inference.infer(core, message).outputs[0].contents.int64_contents == [5]


def broken(change):
    message = affine_request()
    change(message)
    return message


def set_shape(*shape):
    def change(message):
        message.inputs[0].shape[:] = shape

    return change


def set_raw(*contents, keep=False):
    def change(message):
        message.raw_input_contents.extend(contents)
        for tensor in message.inputs:
            if not keep:
                tensor.ClearField("contents")

    return change


def set_datatype(name):
    def change(message):
        message.inputs[0].datatype = name

    return change


def add_again(message):
    message.inputs.add().CopyFrom(message.inputs[0])


def drop(message):
    del message.inputs[0]


def other_field(message):
    message.inputs[0].contents.int_contents.append(1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (set_shape(-2), "negative dimension"),
        (set_shape(-1, -2), "negative dimension"),
        (set_shape(1 << 40), "has 2 values; its shape"),
        (set_shape(1 << 62, 1 << 62), "impossible shape"),
        (set_shape(0, 1 << 62, 1 << 62), "impossible shape"),
        (set_shape(*[1] * 65), "65 dimensions"),
        (set_shape(3), "has 2 values"),
        (set_shape(1), "has 2 values"),
        (set_shape(), "has 2 values"),
        (set_shape(2, 1), "Incompatible shape for input a"),
        (set_raw(bytes(8)), "1 entries for 2 inputs"),
        (set_raw(bytes(8), bytes(8), bytes(8)), "3 entries for 2 inputs"),
        (set_raw(bytes(8), bytes(7)), "the raw contents have 7 bytes"),
        (set_raw(bytes(8), b""), "the raw contents have 0 bytes"),
        (set_raw(bytes(8), bytes(8), keep=True), "use one of them"),
        (set_datatype("FP31"), "the datatype 'FP31' is none of BOOL,"),
        (set_datatype(""), "the datatype '' is none of"),
        (set_datatype("FP64"), "its values are in fp32_contents: use fp64_contents"),
        (set_datatype("FP16"), r"Expects arg\[0\] to be float but half is provided"),
        (add_again, "the input a is there twice"),
        (drop, "input size does not match signature"),
        (other_field, "its values are in int_contents: use fp32_contents"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(core, change, text):
    with pytest.raises(RequestError, match=text):
        open_inference.infer(core, broken(change))


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("INT8", -129), ("INT16", 1 << 15), ("UINT8", 256)])
def test_a_value_out_of_range_is_refused(core, datatype, value):
    with pytest.raises(RequestError, match="out of the range"):
        open_inference.infer(core, echo_request(datatype, np.array([value]), raw=False))


@pytest.mark.parametrize(
    ("data", "count", "text"),
    [
        (b"\x01\0\0", 1, "end within element 0 of 1"),
        (b"\x05\0\0\0abc", 1, "end within element 0 of 1"),
        (b"\xff\xff\xff\xffabc", 1, "end within element 0 of 1"),
        (b"\0\0\0\0", 2, "end within element 1 of 2"),
        (b"\0\0\0\0\0\0\0\0", 1, "4 bytes after its 1 elements"),
        (bytes(4 * 200_000), 200_000, "at most 100000 of BYTES"),
    ],
)
def test_strings_that_do_not_fit_are_refused(core, data, count, text):
    message = request("echo", raw_input_contents=[data])
    message.parameters["signature_name"].string_param = "BYTES"
    message.inputs.add(name="x", datatype="BYTES", shape=[count])
    with pytest.raises(RequestError, match=text):
        open_inference.infer(core, message)


@given(
    datatype=st.sampled_from([*DATATYPES, "X"]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 4), max_size=4),
    raw=st.none() | st.binary(max_size=40),
    contents=st.builds(
        pb2.InferTensorContents,
        bool_contents=st.lists(st.booleans(), max_size=2),
        int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
        fp32_contents=st.lists(st.floats(width=32), max_size=2),
        bytes_contents=st.lists(st.binary(max_size=5), max_size=2),
    ),
)
def test_any_tensor_is_answered_or_refused_as_a_request(datatype, shape, raw, contents):
    core = ModelServer()
    core.add_model("echo", 1, echo_model())
    message = request("echo")
    message.parameters["signature_name"].string_param = datatype
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    if raw is not None:
        message.raw_input_contents.append(raw)
    else:
        message.inputs[0].contents.CopyFrom(contents)
    try:
        answer = open_inference.infer(core, message)
    except RequestError:
        return
    assert list(answer.outputs[0].shape) == shape


@given(st.lists(st.binary(max_size=10), max_size=10))
def test_strings_are_read_as_they_are_written(items):
    data = b"".join(struct.pack("<I", len(item)) + item for item in items)
    array = open_inference.read_raw("BYTES", [len(items)], data, tensor="x")
    assert array.tolist() == items


def test_metadata_tells_types_shapes_versions_and_engine(core):
    answer = open_inference.model_metadata(core, "affine")
    assert (answer.name, answer.platform, list(answer.versions)) == ("affine", "stub", ["4", "7"])
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.inputs] == [
        ("a", "FP32", [-1]),
        ("b", "FP32", [-1]),
    ]
    assert [one.name for one in answer.outputs] == ["y", "z"]
    with pytest.raises(SignatureNotFoundError, match="the model has BF16, BOOL, BYTES"):
        open_inference.model_metadata(core, "echo")
    with pytest.raises(ServableNotFoundError):
        open_inference.model_metadata(core, "other")


def test_a_type_that_the_protocol_lacks_is_refused(core):
    spec = {"serving_default": {"x": TensorSpec("x:0", DataType.DT_COMPLEX64, (-1,))}}
    model = FunctionModel({"serving_default": lambda x: {"x": x}}, {"serving_default": ["x"]}, spec)
    core.add_model("complex", 1, model)
    with pytest.raises(RequestError, match="x is complex64, for which the Open Inference Protocol has no datatype"):
        open_inference.model_metadata(core, "complex")


def test_readiness_is_that_of_the_server_and_of_each_version(core):
    assert open_inference.model_ready(core, "affine")
    assert open_inference.model_ready(core, "affine", "4")
    assert not open_inference.model_ready(core, "affine", "5")
    assert not open_inference.model_ready(core, "affine", "stable")
    assert not open_inference.model_ready(core, "other")
    assert not open_inference.model_ready(core, "")


@pytest.fixture
def connection(core, serve):
    return serve(core, extra_services=[open_inference.service(core, max_bytes=64 << 20)])


def call(connection, method, message):
    response = getattr(pb2, f"{method}Response")
    return connection.call(f"/inference.GRPCInferenceService/{method}", message, response)


def test_every_method_answers_over_grpc(connection):
    assert call(connection, "ServerLive", pb2.ServerLiveRequest()).live
    assert call(connection, "ServerReady", pb2.ServerReadyRequest()).ready
    assert call(connection, "ModelReady", pb2.ModelReadyRequest(name="affine", version="7")).ready
    assert not call(connection, "ModelReady", pb2.ModelReadyRequest(name="affine", version="8")).ready
    about = call(connection, "ServerMetadata", pb2.ServerMetadataRequest())
    assert about.name == "sealserve"
    assert about.version
    assert call(connection, "ModelMetadata", pb2.ModelMetadataRequest(name="affine")).platform == "stub"
    assert call(connection, "ModelInfer", affine_request()).outputs[0].contents.fp32_contents == [5, 8]


def test_a_server_without_a_model_lives_and_is_not_ready(serve):
    core = ModelServer()
    connection = serve(core, extra_services=[open_inference.service(core, max_bytes=1 << 20)])
    assert call(connection, "ServerLive", pb2.ServerLiveRequest()).live
    assert not call(connection, "ServerReady", pb2.ServerReadyRequest()).ready


def test_errors_are_statuses(connection):
    for message, code in ((affine_request(version="8"), "NOT_FOUND"), (broken(set_shape(-1)), "INVALID_ARGUMENT")):
        with pytest.raises(grpc.RpcError) as info:
            call(connection, "ModelInfer", message)
        assert info.value.code().name == code


def test_large_tensors_pass_in_both_forms(core, connection):
    values = np.arange(1 << 20, dtype=np.float32)
    typed = affine_request(values, values)
    raw = affine_request(values, values)
    set_raw(values.tobytes(), values.tobytes())(raw)
    assert np.array_equal(np.frombuffer(call(connection, "ModelInfer", raw).raw_output_contents[0], "<f4"), values * 3)
    answer = call(connection, "ModelInfer", typed)
    assert np.array_equal(np.array(answer.outputs[0].contents.fp32_contents, np.float32), values * 3)


class Seen:
    def __init__(self):
        self.requests = []

    def request(self, model, method, api, status, seconds):
        assert seconds >= 0
        self.requests.append((model, method, api, status))


def test_the_observer_is_told_of_each_request(core, connection):
    core.observer = Seen()
    call(connection, "ModelInfer", affine_request())
    for message in (broken(set_shape(-1)), request("a stranger's name")):
        with pytest.raises(grpc.RpcError):
            call(connection, "ModelInfer", message)
    assert core.observer.requests == [
        ("affine", "ModelInfer", "GRPC", "OK"),
        ("affine", "ModelInfer", "GRPC", "INVALID_ARGUMENT"),
        ("", "ModelInfer", "GRPC", "NOT_FOUND"),
    ]
