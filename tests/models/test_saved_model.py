"""What is said about directories that are no models."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sealserve.cli.model import model as model_command
from sealserve.errors import InputError, ModelError
from sealserve.models.description import describe_model
from sealserve.models.fetching import fetch_model
from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.saved_model import find_versions, read_saved_model
from sealserve.models.writing import write_saved_model
from sealserve.wire.tensorflow_pb2 import DataType, MetaGraphDef, NodeDef, SavedModel


def half_plus_two():
    graph, number = GraphBuilder(), type_attribute(DataType.DT_FLOAT)
    x = graph.placeholder("x", DataType.DT_FLOAT, [-1])
    half = graph.node("Mul", "half", [x, graph.constant("a", np.array(0.5, np.float32))], T=number)
    graph.node("Add", "y", [half, graph.constant("b", np.array(2, np.float32))], T=number)
    x, y = (TensorInGraph(f"{name}:0", DataType.DT_FLOAT, (-1,)) for name in "xy")
    return graph.saved_model({"x": x}, {"y": y}, signature="serving_default")


def test_versions_are_the_directories_with_numbers(tmp_path):
    for name in ("10", "9", "x", "1.5", ".2.partial", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "3").write_text("a file")
    assert list(find_versions(tmp_path)) == [9, 10]


@pytest.mark.parametrize(
    ("prepare", "says", "hint"),
    [
        (lambda path: None, "no model version", "1/saved_model.pb"),
        (lambda path: (path / "saved_model.pb").touch(), "without a version", "1/saved_model.pb"),
        (lambda path: path.rmdir(), "there is no model at", "path"),
        (lambda path: (path.rmdir(), path.touch()), "is a file", "directory"),
    ],
)
def test_a_base_directory_without_versions_is_explained(tmp_path, prepare, says, hint):
    base = tmp_path / "model"
    base.mkdir()
    prepare(base)
    with pytest.raises(ModelError, match=says) as caught:
        find_versions(base)
    assert hint in caught.value.hint


def without_tag():
    message = half_plus_two()
    message.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    return message


def without_signature():
    message = half_plus_two()
    definitions = message.meta_graphs[0].signature_def
    definitions["__saved_model_init_op"].CopyFrom(definitions.pop("serving_default"))
    return message


@pytest.mark.parametrize(
    ("files", "says", "hint"),
    [
        ({}, "it has no saved_model.pb", "saved_model.pb"),
        ({"saved_model.pbtxt": b""}, "it has no saved_model.pb", "binary"),
        ({"model.keras": b""}, "it has no saved_model.pb", "model.export"),
        ({"saved_model.pb": b"\xff\xff"}, "cannot be parsed", "cut short"),
        ({"saved_model.pb": half_plus_two().SerializeToString()[:-9]}, "cannot be parsed", "cut short"),
        ({"saved_model.pb": b""}, "it has no graph", "again"),
        ({"saved_model.pb": without_tag().SerializeToString()}, "tag 'serve'; its tags: train", "tf.saved_model.save"),
        ({"saved_model.pb": without_signature().SerializeToString()}, "no signature", "signatures="),
    ],
)
def test_a_directory_that_is_no_saved_model_is_explained(tmp_path, files, says, hint):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=says) as caught:
        read_saved_model(tmp_path)
    assert hint in caught.value.hint


def test_a_version_directory_is_hinted_at(tmp_path):
    write_saved_model(tmp_path, 1, half_plus_two())
    with pytest.raises(ModelError) as caught:
        read_saved_model(tmp_path)
    assert "name one of its directories" in caught.value.hint


def test_the_initializer_is_no_signature_and_functions_count_as_operations(tmp_path):
    message = half_plus_two()
    graph = message.meta_graphs[0]
    graph.signature_def["__saved_model_init_op"].method_name = "init"
    graph.graph_def.library.function.add().node_def.append(NodeDef(name="z", op="StringUpper"))
    content = read_saved_model(write_saved_model(tmp_path, 1, message))
    assert list(content.signatures) == ["serving_default"]
    assert content.operations()["StringUpper"] == 1


def test_unknown_rank_is_kept_as_such(tmp_path):
    message = half_plus_two()
    message.meta_graphs[0].signature_def["serving_default"].inputs["x"].tensor_shape.unknown_rank = True
    content = read_saved_model(write_saved_model(tmp_path, 1, message))
    spec = content.signatures["serving_default"].inputs["x"]
    assert spec.shape is None
    assert str(spec) == "float unknown shape"


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_model_or_a_model_error(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("any")
    (directory / "saved_model.pb").write_bytes(data)
    with pytest.raises(ModelError):
        read_saved_model(directory)


def test_a_node_name_is_given_once():
    graph = GraphBuilder()
    graph.placeholder("x", DataType.DT_FLOAT, [])
    with pytest.raises(ValueError, match="has a node x already"):
        graph.placeholder("x", DataType.DT_FLOAT, [])


def test_a_description_names_versions_signatures_size_and_operations(tmp_path):
    for version in (1, 2):
        write_saved_model(tmp_path, version, half_plus_two())
    description = describe_model(tmp_path)
    assert description.as_dict()["version"] == 2
    assert description.as_dict()["versions"] == [1, 2]
    assert description.size == (tmp_path / "2" / "saved_model.pb").stat().st_size
    assert "input     x: float [?]" in description.as_text()
    assert describe_model(tmp_path, 1).version == 1
    assert describe_model(tmp_path / "2").version is None
    with pytest.raises(ModelError, match="no version 7"):
        describe_model(tmp_path, 7)


def test_inspect_prints_json_for_scripts(tmp_path):
    write_saved_model(tmp_path, 1, half_plus_two())
    result = CliRunner().invoke(model_command, ["inspect", str(tmp_path), "--json"])
    assert result.exit_code == 0
    signature = json.loads(result.stdout)["signatures"]["serving_default"]
    assert signature["inputs"] == {"x": {"tensor": "x:0", "dtype": "float", "shape": [-1]}}


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(InputError) as caught:
        fetch_model("resnet", tmp_path)
    assert "efficientnet-lite0" in caught.value.hint


def test_a_saved_model_without_the_serve_tag_among_others_is_found(tmp_path):
    message = half_plus_two()
    other = SavedModel(meta_graphs=[MetaGraphDef(meta_info_def=MetaGraphDef.MetaInfoDef(tags=["train"]))])
    other.meta_graphs.append(message.meta_graphs[0])
    assert read_saved_model(write_saved_model(tmp_path, 1, other)).signatures
