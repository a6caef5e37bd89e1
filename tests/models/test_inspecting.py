"""What is told of models: SavedModels, frozen graphs, ONNX models, sealed ones, and files that are none."""

from __future__ import annotations

import contextlib
import json

import pytest
from click.testing import CliRunner
from example_graphs import FLOAT, classifier, frozen_graph, graph_of, saved_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.cli.model import model as model_command
from sealserve.errors import ModelError, SealserveError, TrustError
from sealserve.models import parsing
from sealserve.models.description import describe_model
from sealserve.models.onnx_file import read_onnx_file
from sealserve.models.writing import write_saved_model
from sealserve.sealing import seal_model
from sealserve.secret import Secret
from sealserve.serving import trial
from sealserve.wire.tensorflow_pb2 import AttrValue, DataType, NodeDef

KEY = bytes(range(16))


def inspected(*arguments):
    done = CliRunner().invoke(model_command, ["inspect", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def field(number, content):
    """A field of a message: text, bytes or a number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def onnx_model():
    """`y = If(x) …`, with weights among the inputs, as the first versions of ONNX had them."""

    def tensor(name, *dims):
        shape = b"".join(field(1, field(2, one) if isinstance(one, str) else field(1, one)) for one in dims)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    def node(operation, domain="", *attributes):
        return (
            field(1, "x")
            + field(2, "y")
            + field(4, operation)
            + (field(7, domain) if domain else b"")
            + b"".join(field(5, one) for one in attributes)
        )

    inner = field(1, "then_branch") + field(6, field(1, node("Relu")))
    weights = field(1, 3) + field(2, 1) + field(8, "w") + field(9, bytes(12))
    graph = b"".join(
        [
            field(1, node("If", "", inner)),
            field(1, node("Gelu", "com.microsoft")),
            field(5, weights),
            field(11, tensor("x", "batch", 4)),
            field(11, tensor("w", 3)),
            field(12, tensor("y", "batch", 3)),
        ]
    )
    return field(1, 8) + field(2, "exporter") + field(7, graph) + field(8, field(1, "") + field(2, 13))


def test_a_saved_model_tells_sizes_warm_up_method_and_engines(tmp_path):
    message = saved_model()
    message.meta_graphs[0].meta_info_def.tensorflow_version = "2.21.0"
    version = write_saved_model(tmp_path, 3, message)
    for name, size in (("assets/vocabulary.txt", 10), ("assets.extra/tf_serving_warmup_requests", 20)):
        (version / name).parent.mkdir()
        (version / name).write_bytes(bytes(size))
    report = json.loads(inspected(tmp_path, "--json"))
    graph = (version / "saved_model.pb").stat().st_size
    assert report["sizes"] == {"total": graph + 30, "graph": graph, "variables": 0, "assets": 10, "warm_up": 20}
    assert report["made_with"] == "TensorFlow 2.21.0"
    assert report["engines"]["openvino"]["runs"] is True
    assert report["engines"]["tensorflow"]["runs"] is True
    assert report["signatures"]["serving_default"]["method_name"] == "tensorflow/serving/predict"
    text = inspected(tmp_path)
    assert "version     3 (there: 3)" in text
    assert "warm-up 20" in text
    assert "operations  6: Const 2," in text.replace("NoOp 1, ", "").replace("7:", "6:")


def changed(**change):
    message = saved_model()
    graph = message.meta_graphs[0].graph_def
    node = next(node for node in graph.node if node.name == "predict")
    if "op" in change:
        node.op = change["op"]
    if change.get("string"):
        message.meta_graphs[0].signature_def["serving_default"].outputs["predict"].dtype = DataType.DT_STRING
    if change.get("variable"):
        graph.node.add(name="v", op="VarHandleOp")
    if "function" in change:
        node.op = "PartitionedCall"
        node.attr["f"].func.name = "called"
        function = graph.library.function.add()
        function.signature.name = "called"
        function.node_def.append(NodeDef(name="inner", op=change["function"]))
    if "unused" in change:
        graph.node.append(NodeDef(name="apart", op=change["unused"]))
    return message


@pytest.mark.parametrize(
    ("message", "openvino", "tensorflow"),
    [
        (changed(), True, True),
        (changed(op="StringUpper"), "StringUpper", True),
        (changed(op="Addons>Thing"), "Addons>Thing", "Addons>Thing"),
        (changed(function="StringUpper"), "StringUpper", True),
        (changed(function="Relu"), True, True),
        (changed(unused="Addons>Thing"), True, "Addons>Thing"),
        (changed(string=True), "string tensor: it may hold", True),
        (changed(op="ParseExampleV2"), True, True),
        (changed(variable=True), "variables.index is missing", "variables.index is missing"),
    ],
)
def test_which_engine_runs_it_is_judged_by_what_it_needs(tmp_path, message, openvino, tensorflow):
    write_saved_model(tmp_path, 1, message)
    verdicts = {one.engine: one for one in describe_model(tmp_path).engines}
    for engine, expected in (("openvino", openvino), ("tensorflow", tensorflow)):
        known = "it may hold" not in str(expected)
        assert verdicts[engine].runs is ((expected is True) if known else None)
        assert expected is True or expected in verdicts[engine].reason


@pytest.fixture
def openvino_alone(monkeypatch):
    """TensorFlow takes seconds to be imported."""
    monkeypatch.setattr(trial, "ENGINES", ("openvino",))


def test_a_check_loads_the_model(tmp_path, openvino_alone):
    write_saved_model(tmp_path / "a", 1, saved_model())
    (tmp_path / "b.pb").write_bytes(frozen_graph())
    (tmp_path / "c.onnx").write_bytes(onnx_model())
    write_saved_model(tmp_path / "d", 1, changed(op="StringUpper"))
    for name, runs in (("a", True), ("b.pb", True), ("c.onnx", True), ("d", False)):
        verdict = json.loads(inspected(tmp_path / name, "--check", "--json"))["engines"]["openvino"]
        assert (verdict["runs"], verdict["tried"]) == (runs, True)
        assert ("serving_default" if runs else "StringUpper") in verdict["reason"]


def test_an_engine_that_is_not_installed_is_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "ENGINES", ("no_such_engine",))
    write_saved_model(tmp_path, 1, saved_model())
    verdict = json.loads(inspected(tmp_path, "--check", "--json"))["engines"]["no_such_engine"]
    assert (verdict["runs"], verdict["tried"]) == (None, False)


@pytest.mark.slow
def test_a_check_loads_the_model_with_tensorflow_too(tmp_path):
    pytest.importorskip("tensorflow")
    write_saved_model(tmp_path / "a", 1, saved_model())
    write_saved_model(tmp_path / "b", 1, changed(op="Addons>Thing"))
    for name, runs in (("a", True), ("b", False)):
        verdict = json.loads(inspected(tmp_path / name, "--check", "--json"))["engines"]["tensorflow"]
        assert (verdict["runs"], verdict["tried"]) == (runs, True)


@pytest.mark.slow
def test_the_verdict_without_loading_is_that_of_loading_or_open(tmp_path, openvino_alone):
    tf = pytest.importorskip("tensorflow")
    layers, sequence = tf.keras.layers, tf.keras.Sequential

    class Strings(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def lengths(self, x):
            return {"y": tf.strings.length(x)}

    sequence([tf.keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()]).export(tmp_path / "a/1")
    sequence([tf.keras.Input((5, 3)), layers.LSTM(4)]).export(tmp_path / "b/1")
    lookup = layers.StringLookup(vocabulary=["a", "b"])
    sequence([tf.keras.Input((1,), dtype=tf.string), lookup]).export(tmp_path / "c/1")
    strings = Strings()
    tf.saved_model.save(strings, tmp_path / "d/1", signatures={"serving_default": strings.lengths})
    # What becomes of strings only loading tells: of c, that it is not cut.
    for name, said, runs in (("a", True, True), ("b", True, True), ("c", None, False), ("d", False, False)):
        found = describe_model(tmp_path / name)
        assert found.made_with.startswith("TensorFlow 2.")
        assert [one.runs for one in found.engines] == [said, True]
        assert [one.runs for one in trial.try_engines(found).engines] == [runs]


def test_a_frozen_graph_shows_what_could_be_its_inputs_and_outputs(tmp_path):
    (tmp_path / "a.pb").write_bytes(frozen_graph())
    report = json.loads(inspected(tmp_path / "a.pb", "--json"))
    assert report["kind"] == "frozen-graph"
    assert report["candidates"] == {
        "inputs": [{"tensor": "input:0", "dtype": "float", "shape": [-1, 4]}],
        "outputs": [{"tensor": "predict:0", "dtype": "float", "shape": [-1, 3]}],
    }
    assert "inputs      input:0: float [?, 4]" in inspected(tmp_path / "a.pb")


def test_an_onnx_model_is_read_without_its_weights(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1/model.onnx").write_bytes(onnx_model())
    report = json.loads(inspected(tmp_path, "--json"))
    assert (report["kind"], report["version"], report["made_with"]) == ("onnx", 1, "exporter")
    assert report["operations"] == {"Relu": 1, "If": 1, "com.microsoft.Gelu": 1}
    signature = report["signatures"]["serving_default"]
    assert signature["inputs"] == {"x": {"tensor": "x", "dtype": "float", "shape": [-1, 4]}}
    assert signature["outputs"] == {"y": {"tensor": "y", "dtype": "float", "shape": [-1, 3]}}
    assert report["engines"]["tensorflow"]["runs"] is False


@pytest.fixture
def sealed(tmp_path):
    write_saved_model(tmp_path / "model", 2, saved_model())
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    seal_model(tmp_path / "model", tmp_path / "sealed", Secret(KEY), mount="/models/x")
    return tmp_path / "sealed"


def test_a_sealed_model_tells_little_without_its_key_and_all_with_it(tmp_path, sealed, openvino_alone):
    report = json.loads(inspected(sealed, "--json"))
    assert (report["kind"], report["opened"]) == ("sealed", False)
    assert "serving_default" not in inspected(sealed)
    opened = json.loads(inspected(sealed, "--key", tmp_path / "key", "--check", "--json"))
    plain = json.loads(inspected(tmp_path / "model", "--json"))
    assert opened["path"] == f"{sealed} (sealed)"
    assert (opened["versions"], opened["signatures"]) == (plain["versions"], plain["signatures"])
    assert opened["engines"]["openvino"]["tried"] is True
    with pytest.raises(ModelError, match="no version 9"):
        inspected(sealed, "--key", tmp_path / "key", "--version", "9")
    with pytest.raises(ModelError, match="is not sealed"):
        inspected(tmp_path / "model", "--key", tmp_path / "key")
    (tmp_path / "other").write_bytes(bytes(16))
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(TrustError):
        inspected(sealed, "--key", tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "content", "says", "hint"),
    [
        ("a.tar.gz", b"\x1f\x8b", "is an archive", "model fetch"),
        ("saved_model.pb", b"\x08\x01\x12\x00", "a file of a SavedModel", "Give its directory"),
        ("x", b"GRAFS_PF", "is an encrypted file", "seal inspect"),
        ("x", b"\x89HDF\r\n", "Keras file", "model.export"),
        ("x", b"", "no model that is known", "SavedModels"),
        ("x.onnx", b"\x08\x08\x3a\xff", "cannot be parsed", "again"),
        ("x.onnx", b"\x08\x08", "has no graphs", "again"),
        ("x.onnx", b"\x08\x08" + field(7, field(1, field(5, b"")) * 3)[:-1], "cut short", "again"),
    ],
)
def test_a_file_that_cannot_be_described_is_explained(tmp_path, name, content, says, hint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        describe_model(tmp_path / name)
    assert hint in caught.value.hint


def test_a_file_that_was_made_to_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "_MAX_FIELDS", 10_000)
    (tmp_path / "a.pb").write_bytes(field(1, field(1, "x") + field(2, "Relu") + b"\x2a\x00" * 20_000))
    with pytest.raises(ModelError, match="more than 10000 fields"):
        describe_model(tmp_path / "a.pb")
    nested = b""
    for _ in range(40):
        nested = field(1, field(5, field(6, nested)))
    with pytest.raises(ModelError, match="nested too deeply"):
        read_onnx_file(b"\x08\x08" + field(7, nested), "x")


def test_lines_fit_a_narrow_terminal_and_names_cannot_do_anything_to_it(tmp_path):
    graph = classifier()
    for index in range(80):
        graph.node(f"Operation{index}", f"node{index}", ["input"], T=FLOAT)
    definition = graph_of(graph)
    definition.node.append(NodeDef(name="\x1b[2J" + "x" * 500, op="Relu\u202e", attr={"T": AttrValue(type=1)}))
    (tmp_path / "a.pb").write_bytes(definition.SerializeToString())
    text = describe_model(tmp_path / "a.pb").as_text(40)
    assert all(len(line) <= 40 or " " not in line.strip() or "xxx" in line for line in text.splitlines()[1:])
    assert "other kinds" in " ".join(text.split())
    assert "\x1b" not in inspected(tmp_path / "a.pb")


@settings(max_examples=25)
@given(data=st.data())
def test_mutated_models_are_described_or_end_in_an_error_of_ours(tmp_path_factory, data):
    kind = data.draw(st.sampled_from(["saved_model.pb", "a.pb", "model.onnx"]))
    whole = {"saved_model.pb": saved_model().SerializeToString(), "a.pb": frozen_graph(), "model.onnx": onnx_model()}
    content = bytearray(whole[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=5))
    directory = tmp_path_factory.mktemp("mutated")
    (directory / kind).write_bytes(content)
    try:
        found = describe_model(directory / kind if kind == "a.pb" else directory)
    except SealserveError:
        return
    else:
        json.dumps(found.as_dict())
        found.as_text(80)


@given(data=st.binary(max_size=300))
def test_any_bytes_are_an_onnx_model_or_an_error_of_ours(data):
    with contextlib.suppress(ModelError):
        read_onnx_file(data, "x")
