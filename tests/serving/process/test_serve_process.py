"""``sealserve serve`` as a process, called with TensorFlow Serving's own stubs."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import ssl
import threading
import urllib.error
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sealserve.sealing import generate_wrap_key, read_wrap_key, seal_model

pytest.importorskip("tensorflow_serving.apis")
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def predict(channel, x=(1.0, 2.0), *, name="half", version=None, label=None, timeout=30.0):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(x, tf.float32))
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=timeout)
    return answer.model_spec.version.value, tf.make_ndarray(answer.outputs["y"]).tolist()


def status(channel, name="half"):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    return model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30).model_version_status


def health(channel, service=""):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def refused(call, *arguments, **settings):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **settings)
    return caught.value.code().name


@contextlib.contextmanager
def plaintext(served):
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        yield channel


@contextlib.contextmanager
def secure(served, authority, identity=None):
    key = (identity.key, identity.certificate) if identity else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem, *key)
    with grpc.secure_channel(f"127.0.0.1:{served.port}", credentials) as channel:
        yield channel


def fetch(url, body=None, context=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=30, context=context) as answer:  # noqa: S310 - our own server
        return answer.read().decode()


def test_it_serves_what_tensorflow_model_server_serves_with_its_flags(start, half, tmp_path):
    monitoring = tmp_path / "monitoring.cfg"
    monitoring.write_text("prometheus_config { enable: true }")
    served = start(
        f"--model_base_path={half}", "--model_name=half", f"--monitoring_config_file={monitoring}", "--enable-profiler"
    )
    url = f"http://127.0.0.1:{served.rest_port}"
    with plaintext(served) as channel:
        assert predict(channel) == (1, [2.5, 3.0])
        assert [(found.version, found.state) for found in status(channel)] == [(1, 30)]
        assert refused(predict, channel, name="other") == "NOT_FOUND"
        for service in ("", "PredictionService", "ModelService", "tensorflow.serving.PredictionService"):
            assert health(channel, service) == "SERVING"
    with grpc.insecure_channel(f"unix:{served.socket_path}") as channel:
        assert predict(channel) == (1, [2.5, 3.0])
    assert json.loads(fetch(f"{url}/v1/models/half:predict", {"instances": [1.0, 2.0]})) == {"predictions": [2.5, 3.0]}
    text = fetch(f"{url}/monitoring/prometheus/metrics")
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"} 3.0' in text
    assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"} 1.0' in text
    assert ':tensorflow:serving:request_latency_count{API="Predict",entrypoint="GRPC",model_name="half"} 2.0' in text
    assert "# TYPE :tensorflow:serving:request_count counter" in text
    assert "other" not in text
    note = served.wait_for("setting-without-effect")
    assert note["setting"] == "--enable_profiler"
    assert served.stop() == 0


def test_one_way_tls_is_for_grpc_and_rest_alike(start, half, authority, write_ssl_config):
    served = start(
        f"--model_base_path={half}", "--model_name=half", f"--ssl_config_file={write_ssl_config()}", "--host=127.0.0.1"
    )
    with secure(served, authority) as channel:
        assert predict(channel) == (1, [2.5, 3.0])
    with plaintext(served) as channel:
        assert refused(predict, channel) == "UNAVAILABLE"
    context = ssl.create_default_context(cadata=authority.pem.decode())
    url = f"https://127.0.0.1:{served.rest_port}/v1/models/half:predict"
    assert json.loads(fetch(url, {"instances": [4.0]}, context)) == {"predictions": [4.0]}
    with pytest.raises((urllib.error.URLError, OSError)):
        fetch(url.replace("https", "http"), {"instances": [4.0]})
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(url, {"instances": [4.0]}, ssl.create_default_context())
    assert "PRIVATE KEY" not in served.log.read_text()
    assert served.stop() == 0


def test_two_way_tls_answers_only_callers_with_a_certificate(start, half, authority, write_ssl_config, tmp_path):
    file = write_ssl_config(client_verify=True)
    served = start(f"--model_base_path={half}", "--model_name=half", f"--ssl_config_file={file}", "--host=127.0.0.1")
    identity, stranger = authority.issue(), type(authority)().issue()
    with secure(served, authority, identity) as channel:
        assert predict(channel) == (1, [2.5, 3.0])
    for other in (None, stranger):
        with secure(served, authority, other) as channel:
            assert refused(predict, channel) == "UNAVAILABLE"
    url = f"https://127.0.0.1:{served.rest_port}/v1/models/half"
    context = ssl.create_default_context(cadata=authority.pem.decode())
    with pytest.raises((urllib.error.URLError, OSError)):
        fetch(url, context=context)
    (tmp_path / "client.pem").write_bytes(identity.key + identity.certificate)
    context.load_cert_chain(tmp_path / "client.pem")
    assert "AVAILABLE" in fetch(url, context=context)


def test_sigterm_lets_requests_in_flight_finish_and_ends_with_0(start, half, tmp_path):
    batching = tmp_path / "batching.cfg"
    # A lone request waits for a second one: it is in flight for as long.
    batching.write_text("max_batch_size { value: 4 } batch_timeout_micros { value: 1500000 }")
    served = start(
        f"--model_base_path={half}", "--model_name=half", "--enable_batching", f"--batching_parameters_file={batching}"
    )
    with plaintext(served) as channel:
        found = []
        grpc.channel_ready_future(channel).result(30)
        caller = threading.Thread(target=lambda: found.append(predict(channel)))
        caller.start()
        caller.join(0.5)
        assert not found, "the request was not in flight"
        served.signal(signal.SIGTERM)
        served.wait_for("server-stopping")
        caller.join(30)
        assert found == [(1, [2.5, 3.0])]
        assert refused(predict, channel) == "UNAVAILABLE"
    assert served.wait() == 0
    assert not served.socket_path.exists()


def test_requests_are_batched_as_the_file_says_and_batches_are_counted(start, half, tmp_path):
    files = {
        "batching_parameters_file": "max_batch_size { value: 2 } batch_timeout_micros { value: 20000000 } "
        "num_batch_threads { value: 1 } thread_pool_name { value: 'batches' }",
        "monitoring_config_file": 'prometheus_config { enable: true path: "/metrics" }',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    served = start(
        f"--model_base_path={half}",
        "--model_name=half",
        "--enable_batching",
        *(f"--{name}={tmp_path / name}" for name in files),
    )
    assert served.wait_for("setting-without-effect")["setting"] == "thread_pool_name"
    url, answers = f"http://127.0.0.1:{served.rest_port}", []
    callers = [
        threading.Thread(
            target=lambda number=number: answers.append(
                (number, json.loads(fetch(f"{url}/v1/models/half:predict", {"instances": [float(number)]})))
            )
        )
        for number in (2, 4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(answers, key=lambda answer: answer[0]) == [(2, {"predictions": [3.0]}), (4, {"predictions": [4.0]})]
    text = fetch(f"{url}/metrics")
    assert "\n:tensorflow:serving:batching_session:wrapped_run_count 1.0\n" in text
    assert ':tensorflow:serving:runtime_latency_count{API="Predict",model_name="half",runtime="openvino"} 2.0' in text


def test_before_there_is_a_version_health_says_so_and_requests_are_told_to_wait(start, tmp_path, add_version):
    base = tmp_path / "half"
    base.mkdir()
    served = start(f"--model_base_path={base}", "--model_name=half", ready=False)
    served.wait_for("server-listening")
    with plaintext(served) as channel:
        assert health(channel) == "NOT_SERVING"
        assert refused(predict, channel) in {"NOT_FOUND", "UNAVAILABLE"}
        add_version(base, 7, 1)
        served.wait_until_ready()
        assert health(channel) == "SERVING"
        assert predict(channel) == (7, [1.5, 2.0])


def test_sigterm_while_it_waits_for_models_ends_it_with_0(start, tmp_path):
    base = tmp_path / "half"
    base.mkdir()
    served = start(f"--model_base_path={base}", ready=False)
    served.wait_for("server-listening")
    assert served.stop() == 0


def test_a_model_that_does_not_load_at_start_ends_the_server_with_the_reason(start, tmp_path):
    (tmp_path / "half" / "1").mkdir(parents=True)
    (tmp_path / "half" / "1" / "saved_model.pb").write_bytes(b"no model")
    served = start(f"--model_base_path={tmp_path / 'half'}", "--max_num_load_retries=0", ready=False)
    assert served.wait() == 3
    text = served.log.read_text()
    assert "default" in text
    assert "saved_model.pb" in text


def test_sighup_reads_the_models_file_again_and_a_bad_file_changes_nothing(
    start, half, tmp_path, add_version, write_models
):
    other = tmp_path / "other"
    add_version(other, 3, 5)
    file = write_models(half=(half, ""))
    served = start(f"--model_config_file={file}")
    with plaintext(served) as channel:
        assert refused(predict, channel, name="other") == "NOT_FOUND"
        write_models(half=(half, ""), other=(other, ""))
        served.signal(signal.SIGHUP)
        served.wait_for("configuration-reloaded")
        assert predict(channel, name="other") == (3, [5.5, 6.0])
        file.write_text("model_config_list { config { name: ")
        served.signal(signal.SIGHUP)
        served.wait_for("configuration-not-reloaded")
        assert predict(channel, name="other") == (3, [5.5, 6.0])
        assert predict(channel) == (1, [2.5, 3.0])
        write_models(other=(other, ""))
        served.signal(signal.SIGHUP)
        served.wait_for("configuration-reloaded", times=2)
        served.wait_for("model-version-unloaded")
        assert refused(predict, channel) == "NOT_FOUND"
    assert served.stop() == 0


def test_the_models_file_is_polled(start, half, tmp_path, add_version, write_models):
    other = tmp_path / "other"
    add_version(other, 3, 5)
    file = write_models(half=(half, ""))
    served = start(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1")
    write_models(half=(half, ""), other=(other, ""))
    served.wait_for("configuration-reloaded")
    with plaintext(served) as channel:
        assert predict(channel, name="other") == (3, [5.5, 6.0])


def test_a_bad_file_that_is_polled_is_complained_of_once(start, half, write_models):
    file = write_models(half=(half, ""))
    served = start(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1")
    file.write_text("{")
    served.wait_for("configuration-not-reloaded")
    file.write_text("model_config_list { config { name: 7 } }")
    served.wait_for("configuration-not-reloaded", times=2)
    write_models(half=(half, 'version_labels { key: "stable" value: 1 }'))
    served.wait_for("configuration-reloaded")
    reasons = [entry["reason"] for entry in served.events() if entry.get("event") == "configuration-not-reloaded"]
    assert len(reasons) == len(set(reasons)) == 2


@pytest.mark.slow
def test_each_model_has_its_own_engine(start, half, tmp_path, write_models):
    class Upper(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, s):
            return {"upper": tf.strings.upper(s)}

    module, base = Upper(), tmp_path / "upper"
    tf.saved_model.save(module, str(base / "1"), signatures=module.__call__)
    file = write_models(half=(half, ""), upper=(base, ""))
    served = start(f"--model_config_file={file}", "--max_num_load_retries=0", ready=False)
    assert served.wait() == 3, "OpenVINO runs no strings"
    assert "StringUpper" in served.log.read_text()
    served = start(f"--model_config_file={file}", "--model_engine=upper=tensorflow")
    url = f"http://127.0.0.1:{served.rest_port}/v1/models"
    assert json.loads(fetch(f"{url}/upper:predict", {"instances": ["a"]})) == {"predictions": ["A"]}
    assert json.loads(fetch(f"{url}/half:predict", {"instances": [2.0]})) == {"predictions": [3.0]}


def test_a_configuration_reloaded_under_load_loses_no_request(start, half, add_version, write_models):
    add_version(half, 2, 3)
    policies = [
        f"model_version_policy {{ specific {{ {versions} }} }}"
        for versions in ("versions: 1 versions: 2", "versions: 1", "versions: 1 versions: 2", "versions: 2")
    ]
    file = write_models(half=(half, policies[0]))
    served = start(f"--model_config_file={file}")
    errors, answers, stop = [], [], threading.Event()

    def ask(channel):
        while not stop.is_set():
            try:
                version, found = predict(channel)
            except grpc.RpcError as error:
                errors.append(error)
            else:
                answers.append(version)
                if found != ([2.5, 3.0] if version == 1 else [3.5, 4.0]):
                    errors.append((version, found))

    with plaintext(served) as channel:
        callers = [threading.Thread(target=ask, args=(channel,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        label = 'version_labels { key: "stable" value: 1 }'
        write_models(half=(half, f"{policies[0]} {label}"))
        served.signal(signal.SIGHUP)
        served.wait_for("configuration-reloaded")
        assert predict(channel, label="stable") == (1, [2.5, 3.0])
        for turn in range(8):
            write_models(half=(half, policies[turn % 4]))
            served.signal(signal.SIGHUP)
            served.wait_for("configuration-reloaded", times=turn + 2)
        stop.set()
        for caller in callers:
            caller.join()
    assert errors == []
    assert {1, 2} == set(answers)


def test_a_reload_request_of_a_caller_on_this_machine_is_followed(start, half, tmp_path, add_version):
    other = tmp_path / "other"
    add_version(other, 3, 5)
    served = start(f"--model_base_path={half}", "--model_name=half")
    request = model_management_pb2.ReloadConfigRequest()
    for name, base in (("half", half), ("other", other)):
        request.config.model_config_list.config.add(name=name, base_path=str(base), model_platform="tensorflow")
    with plaintext(served) as channel:
        answer = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=30)
        assert answer.status.error_code == 0
        assert predict(channel, name="other") == (3, [5.5, 6.0])


def test_a_sealed_model_needs_its_key(start, half, tmp_path):
    generate_wrap_key(tmp_path / "key")
    with read_wrap_key(tmp_path / "key") as key:
        seal_model(half, tmp_path / "sealed", key, mount="/models/half")
    served = start(f"--model_base_path={tmp_path / 'sealed'}", ready=False)
    assert served.wait() == 3
    assert "--key_file" in served.log.read_text()
    generate_wrap_key(tmp_path / "wrong")
    served = start(f"--model_base_path={tmp_path / 'sealed'}", f"--key_file={tmp_path / 'wrong'}", ready=False)
    assert served.wait() == 4
    assert "server-listening" not in served.log.read_text()
    served = start(f"--model_base_path={tmp_path / 'sealed'}", "--model_name=half", f"--key_file={tmp_path / 'key'}")
    with plaintext(served) as channel:
        assert predict(channel) == (1, [2.5, 3.0])
    assert served.stop() == 0


def test_a_port_in_use_is_said_so(start, half):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = start(f"--model_base_path={half}", port=port, ready=False)
        assert served.wait() == 6
        assert f"127.0.0.1:{port}" in served.log.read_text()


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("model_config_file", "model_config_list { config { name: 7 } }"),
        ("batching_parameters_file", "max_batch_size { value: 0 }"),
        ("ssl_config_file", "server_key: 7"),
        ("monitoring_config_file", "{"),
    ],
)
def test_a_file_that_is_not_valid_ends_it_before_it_listens(start, half, tmp_path, flag, text):
    (tmp_path / "bad").write_text(text)
    flags = [f"--{flag}={tmp_path / 'bad'}", "--enable_batching"]
    if flag != "model_config_file":
        flags.append(f"--model_base_path={half}")
    served = start(*flags, ready=False)
    assert served.wait() == 3
    assert not [entry for entry in served.events() if entry.get("event") == "server-listening"]
    assert served.log.read_text().strip()


def test_a_model_that_is_waited_for_is_told_with_what_is_wrong_with_its_directory(start, half, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copytree(half / "1", tmp_path / "flat")
    (tmp_path / "file").write_text("")
    wrong = {
        tmp_path / "none": "there is no ",
        tmp_path / "file": "is a file: give the directory",
        tmp_path / "empty": "is named by a number",
        tmp_path / "flat": "put its files into a directory named by a number",
        half / "1": f"is a version: give the directory that it is in, {half}",
    }
    config = tmp_path / "models.cfg"
    configs = [
        f'config {{ name: "m{i}" base_path: "{path}" model_platform: "tensorflow" }}' for i, path in enumerate(wrong)
    ]
    config.write_text("model_config_list { " + "\n".join(configs) + " }")
    served = start(f"--model_config_file={config}", ready=False)
    served.wait_for("waiting-for-versions", times=len(wrong))
    told = {entry["model"]: entry["note"] for entry in served.events() if entry.get("event") == "waiting-for-versions"}
    for index, (path, note) in enumerate(wrong.items()):
        assert str(path) in told[f"m{index}"]
        assert note in told[f"m{index}"]


@pytest.mark.parametrize(
    "flag", ["ssl_config_file", "model_config_file", "monitoring_config_file", "batching_parameters_file"]
)
@pytest.mark.parametrize("content", [None, b"no such field {", b"\xff\xfe"])
def test_a_file_that_is_not_usable_is_named_with_its_flag(start, half, tmp_path, flag, content):
    file = tmp_path / "given.cfg"
    if content is not None:
        file.write_bytes(content)
    model = [] if flag == "model_config_file" else [f"--model_base_path={half}"]
    served = start(f"--{flag}={file}", "--enable_batching", *model, ready=False)
    assert served.wait() == 3
    said = served.log.read_text()
    assert f"--{flag}" in said
    assert "given.cfg" in said


def test_a_label_at_the_start_is_refused_with_the_flag_that_allows_it(start, half, write_models):
    config = write_models(half=(half, 'version_labels { key: "stable" value: 1 }'))
    served = start(f"--model_config_file={config}", ready=False)
    assert served.wait() == 3
    assert "--allow_version_labels_for_unavailable_models" in served.log.read_text()
    start(f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models")
