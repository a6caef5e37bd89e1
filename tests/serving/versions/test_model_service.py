"""``ModelService`` over TLS: with TensorFlow Serving's own stubs, and real models under it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from serving_models import affine_model
from versions_fakes import PATIENCE, until

from sealserve.models.writing import write_saved_model
from sealserve.sealing import seal_model
from sealserve.secret import Secret
from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.versions import (
    All,
    Latest,
    ModelService,
    PlainSource,
    SealedSource,
    ServedModelConfig,
    VersionManager,
    served_models,
)

pytest.importorskip("tensorflow_serving.apis")

from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

AVAILABLE, END = 30, 50


@pytest.fixture
def models(tmp_path):
    """Version n of ``half`` adds n to the half."""
    for version in (1, 2):
        write_saved_model(tmp_path / "half", version, affine_model(0.5, version))
    write_saved_model(tmp_path / "double", 5, affine_model(2, 0))
    return tmp_path


class Party:
    """A server with real models, and TensorFlow Serving's stubs as its client."""

    def __init__(self, serve, engine, **settings):
        self.core = ModelServer()
        defaults = {"poll_seconds": -1, "load_retries": 0, "load_threads": 2}
        self.manager = VersionManager(
            self.core, lambda _config, _version, files: engine.load(files), **defaults, **settings
        )
        service = ModelService(self.core, self.reload).service()
        connection = serve(self.core, extra_services=[service])
        self.models = model_service_pb2_grpc.ModelServiceStub(connection.channel)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(connection.channel)

    def reload(self, config):
        self.manager.reload(served_models(config, source=lambda path: PlainSource(Path(path)), engine=str))

    def status(self, name="half", version=None, label=None):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        return self.models.GetModelStatus(request).model_version_status

    def predict(self, x, name="half", label=None):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        if label is not None:
            request.model_spec.version_label = label
        tensor = request.inputs["x"]
        tensor.dtype = types_pb2.DT_FLOAT
        tensor.tensor_shape.dim.add(size=1)
        tensor.float_val.append(x)
        answer = self.predictions.Predict(request, timeout=PATIENCE)
        return answer.model_spec.version.value, answer.outputs["y"].float_val[0]

    def send(self, *entries, metrics=()):
        request = model_management_pb2.ReloadConfigRequest(metric_names=metrics)
        for entry in entries:
            request.config.model_config_list.config.add(**{"model_platform": "tensorflow", **entry})
        return self.models.HandleReloadConfigRequest(request)


@pytest.fixture
def party(serve, engine):
    made = []

    def make(**settings):
        made.append(Party(serve, engine, **settings))
        return made[-1]

    yield make
    for one in made:
        one.manager.stop()


def refused(call, *arguments, **settings):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **settings)
    return caught.value.code().name, caught.value.details()


def test_the_status_of_versions_is_told(party, models):
    one = party()
    one.manager.start([ServedModelConfig("half", PlainSource(models / "half"), All())])
    assert [(s.version, s.state, s.status.error_code) for s in one.status()] == [(2, AVAILABLE, 0), (1, AVAILABLE, 0)]
    assert [s.version for s in one.status(version=1)] == [1]
    assert refused(one.status, "other") == ("NOT_FOUND", "Could not find any versions of model other")
    assert refused(one.status, version=9) == ("NOT_FOUND", "Could not find version 9 of model half")
    assert refused(one.status, label="x") == ("INVALID_ARGUMENT", "Unrecognized servable version label: x")
    empty = get_model_status_pb2.GetModelStatusRequest()
    assert refused(one.models.GetModelStatus, empty) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_a_version_that_cannot_be_loaded_is_told_with_its_error(party, models):
    one = party()
    one.manager.start([ServedModelConfig("half", PlainSource(models / "half"))])
    (models / "half" / "3").mkdir()
    (models / "half" / "3" / "saved_model.pb").write_bytes(b"\xff" * 100)
    one.manager.poll()
    assert one.manager.wait_until_settled(PATIENCE)
    failed, serving = one.status()
    assert (failed.version, failed.state, failed.status.error_code) == (3, END, 9)
    assert failed.status.error_message
    assert (serving.version, serving.state) == (2, AVAILABLE)
    assert one.predict(8) == (2, 6)


def test_another_configuration_comes_by_request(party, models):
    one = party()
    one.manager.start([ServedModelConfig("half", PlainSource(models / "half"), All())])
    half, double = str(models / "half"), str(models / "double")
    everything = {"all": {}}
    answer = one.send(
        {
            "name": "half",
            "base_path": half,
            "model_version_policy": everything,
            "version_labels": {"stable": 1, "canary": 2},
        },
        {"name": "double", "base_path": double},
        metrics=["/tensorflow/serving/request_count"],
    )
    assert answer.status.error_code == 0
    assert [(m.name, m.int64_value_increase) for m in answer.metric] == [("/tensorflow/serving/request_count", 0)]
    assert one.predict(8, "double") == (5, 16)
    assert one.predict(8, label="stable") == (1, 5)
    assert one.predict(8, label="canary") == (2, 6)
    assert [s.version for s in one.status(label="stable")] == [1]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (
            [{"name": "half", "base_path": "/x"}, {"name": "half", "base_path": "/y"}],
            ("INVALID_ARGUMENT", "Illegal to list model half multiple times in config list"),
        ),
        (
            [{"name": "half", "base_path": "x"}],
            ("INVALID_ARGUMENT", "Expected model half to have an absolute path or URI; got base_path()=x"),
        ),
        (
            [{"name": "half", "base_path": "/x", "model_platform": "caffe"}],
            ("INVALID_ARGUMENT", "Model half requests unsupported platform caffe"),
        ),
        (
            [{"name": "other", "base_path": "/nowhere/at/all"}],
            (
                "INVALID_ARGUMENT",
                (
                    "Could not find base path for servable other with error "
                    "cannot read /nowhere/at/all: No such file or directory"
                ),
            ),
        ),
        (
            [{"name": "half", "base_path": "HALF", "version_labels": {"stable": 77}}],
            (
                "FAILED_PRECONDITION",
                "Request to assign label to version 77 of model half, which is not currently available for inference",
            ),
        ),
    ],
)
def test_a_configuration_that_is_refused_leaves_what_was(party, models, entries, says):
    one = party()
    one.manager.start([ServedModelConfig("half", PlainSource(models / "half"))])
    entries = [{**e, "base_path": e["base_path"].replace("HALF", str(models / "half"))} for e in entries]
    assert refused(one.send, *entries) == says
    assert one.predict(8) == (2, 6)
    assert one.core.names() == ["half"]


def test_only_lists_of_models_are_taken(party, models):
    one = party()
    one.manager.start([])
    assert one.core.ready
    code, text = refused(one.models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest())
    assert (code, text) == (
        "INVALID_ARGUMENT",
        (
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        ),
    )


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_request(party, models):
    one = party()
    one.manager.start([ServedModelConfig("half", PlainSource(models / "half"))])
    (models / "bad" / "1").mkdir(parents=True)
    (models / "bad" / "1" / "saved_model.pb").write_bytes(b"no model")
    code, text = refused(one.send, {"name": "bad", "base_path": str(models / "bad")})
    assert code == "UNKNOWN"
    assert text.startswith("1 model(s) did not become available: {{{name: bad version: 1} due to error: ")


def test_a_server_can_keep_its_configuration_to_itself(serve):
    connection = serve(ModelServer(), extra_services=[ModelService(ModelServer(), None).service()])
    stub = model_service_pb2_grpc.ModelServiceStub(connection.channel)
    code, text = refused(stub.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest())
    assert code == "PERMISSION_DENIED"
    assert "--allow_reload_requests" in text


def test_sealed_versions_come_and_go_like_plain_ones(party, models, tmp_path):
    key, sealed = Secret(bytes(range(16))), tmp_path / "sealed"
    seal_model(models / "half", sealed, key, mount="/models/half", processes=1)
    one = party()
    one.manager.start([ServedModelConfig("half", SealedSource(sealed, key))])
    assert one.predict(8) == (2, 6)
    write_saved_model(models / "half", 3, affine_model(0.5, 3))
    seal_model(models / "half", sealed, key, mount="/models/half", replace=True, processes=1)
    one.manager.poll()
    assert one.manager.wait_until_settled(PATIENCE)
    assert one.predict(8) == (3, 7)


def test_versions_of_real_models_swapped_under_load_answer_rightly(engine, models):
    """Version n gives half plus n, always, whoever asks while versions come and go."""
    core = ModelServer()
    manager = VersionManager(
        core, lambda _config, _version, files: engine.load(files), poll_seconds=0.01, load_threads=2
    )
    base = models / "half"
    manager.start([ServedModelConfig("half", PlainSource(base), Latest(1))])
    stop, wrong, answered = threading.Event(), [], []

    def ask(x):
        inputs, versions = {"x": np.array([x], np.float32)}, set()
        while not stop.is_set():
            try:
                answer = core.predict(ModelChoice("half"), inputs)
                if answer.outputs["y"].tolist() != [x / 2 + answer.version]:
                    wrong.append(answer)
                versions.add(answer.version)
            except Exception as error:  # noqa: BLE001
                wrong.append(error)
        answered.append(versions)

    askers = [threading.Thread(target=ask, args=(float(x),)) for x in range(3)]
    for asker in askers:
        asker.start()
    for version in range(3, 13):
        write_saved_model(base, version, affine_model(0.5, version))
        until(lambda: max(core.models["half"]) == version)  # noqa: B023
        shutil.rmtree(base / str(version - 1))
    stop.set()
    for asker in askers:
        asker.join(PATIENCE)
    manager.stop()
    assert wrong == []
    assert len(set().union(*answered)) > 5


def test_versions_swapped_under_a_server_answer_rightly(party, models):
    """The same through gRPC and TLS, with configurations exchanged meanwhile."""
    one = party()
    one.manager.start([ServedModelConfig("half", PlainSource(models / "half"))])
    stop, wrong, answered = threading.Event(), [], set()

    def ask(x):
        while not stop.is_set():
            try:
                version, y = one.predict(x)
                answered.add(version)
                if y != x / 2 + version:
                    wrong.append((version, x, y))
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    askers = [threading.Thread(target=ask, args=(float(x),)) for x in range(3)]
    for asker in askers:
        asker.start()
    for version in range(3, 9):
        write_saved_model(models / "half", version, affine_model(0.5, version))
        path = str(models / "half")
        one.send(
            {"name": "half", "base_path": path}, {"name": f"double-{version}", "base_path": str(models / "double")}
        )
        until(lambda: max(one.core.models["half"]) == version)  # noqa: B023
        until(lambda: version in answered)  # noqa: B023
    stop.set()
    for asker in askers:
        asker.join(PATIENCE)
    assert wrong == []
    assert {3, 4, 5, 6, 7, 8} <= answered


def test_a_directory_that_vanishes_while_it_is_loaded_harms_nobody(engine, models):
    begun, vanished = threading.Event(), threading.Event()

    def load(_config, version, files):
        if version == 3:
            begun.set()
            assert vanished.wait(PATIENCE)
            files = {}  # as they would be, had they been opened late
        return engine.load(files)

    core = ModelServer()
    manager = VersionManager(core, load, poll_seconds=-1, load_retries=3, retry_seconds=0)
    base = models / "half"
    manager.start([ServedModelConfig("half", PlainSource(base))])
    write_saved_model(base, 3, affine_model(0.5, 3))
    manager.poll()
    assert begun.wait(PATIENCE)
    shutil.rmtree(base / "3")
    vanished.set()
    until(lambda: [s.state for s in core.status(ModelChoice("half", version=3))] == [END])
    assert core.status(ModelChoice("half", version=3))[0].error_message
    answer = core.predict(ModelChoice("half"), {"x": np.array([8], np.float32)})
    assert (answer.version, answer.outputs["y"].tolist()) == (2, [6])
    manager.poll()
    assert manager.wait_until_settled(PATIENCE)
    assert core.ready
    manager.stop()
