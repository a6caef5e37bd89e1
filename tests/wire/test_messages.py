"""Our message types are TensorFlow's on the wire, and live beside TensorFlow's own in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sealserve.wire import tensorflow_pb2, tensorflow_serving_config_pb2, tensorflow_serving_pb2
from sealserve.wire.protos import generate


def test_the_generated_files_are_those_of_the_protos(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    # In a process of its own: protoc and TensorFlow, or OpenVINO, in one process end in a segmentation fault.
    subprocess.run([sys.executable, "-m", generate.__name__, str(tmp_path)], check=True)
    committed = generate.HERE.parent
    for made in tmp_path.iterdir():
        assert made.read_bytes() == (committed / made.name).read_bytes(), f"run `./run protos`: {made.name} is stale"


def test_every_field_has_the_number_and_type_that_tensorflow_gives_it() -> None:
    pytest.importorskip("tensorflow_serving")
    from google.protobuf import descriptor_pool
    from tensorflow.core.example import example_pb2  # noqa: F401 - fill the default pool
    from tensorflow.core.protobuf import saved_model_pb2, tensor_bundle_pb2  # noqa: F401
    from tensorflow_serving.apis import get_model_metadata_pb2, model_service_pb2, prediction_log_pb2  # noqa: F401

    theirs_pool = descriptor_pool.Default()
    compared = 0
    pending = [
        *tensorflow_pb2.DESCRIPTOR.message_types_by_name.values(),
        *tensorflow_serving_pb2.DESCRIPTOR.message_types_by_name.values(),
        tensorflow_serving_config_pb2.ModelServerConfig.DESCRIPTOR,
        tensorflow_serving_config_pb2.ModelConfigList.DESCRIPTOR,
        tensorflow_serving_config_pb2.ModelConfig.DESCRIPTOR,
        tensorflow_serving_config_pb2.FileSystemStoragePathSourceConfig.DESCRIPTOR,
        tensorflow_serving_config_pb2.LoggingConfig.DESCRIPTOR,
        tensorflow_serving_config_pb2.LogCollectorConfig.DESCRIPTOR,
        tensorflow_serving_config_pb2.SamplingConfig.DESCRIPTOR,
    ]
    while pending:
        ours = pending.pop()
        pending.extend(ours.nested_types)
        theirs = theirs_pool.FindMessageTypeByName(ours.full_name)
        for field in ours.fields:
            peer = theirs.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (peer.number, peer.type, peer.is_repeated)
            if field.containing_oneof:
                assert field.containing_oneof.name == peer.containing_oneof.name
            compared += 1
    assert compared >= 150
    for name, value in tensorflow_pb2.DataType.items():
        assert theirs_pool.FindEnumTypeByName("tensorflow.DataType").values_by_name[name].number == value


def test_a_request_that_we_write_is_read_by_tensorflow_servings_own_class() -> None:
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    ours = tensorflow_serving_pb2.PredictRequest()
    ours.model_spec.name = "m"
    ours.model_spec.version.value = 3
    ours.inputs["x"].dtype = tensorflow_pb2.DT_FLOAT
    ours.inputs["x"].tensor_content = b"\0\0\x80\x3f"
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert theirs.model_spec.version.value == 3
    assert theirs.inputs["x"].dtype == 1
    assert tensorflow_serving_pb2.PredictRequest.FromString(theirs.SerializeToString()) == ours
