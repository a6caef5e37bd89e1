"""What flags and small files say together is checked before anything starts."""

from __future__ import annotations

import pytest

from sealserve.errors import ConfigurationError, InputError
from sealserve.secret import Secret
from sealserve.serving.limits import Limits
from sealserve.serving.process.channel_arguments import apply_channel_arguments
from sealserve.serving.process.options import METRICS_PATH, read_options
from sealserve.serving.tls import ServerTls

MODEL = {"model_base_path": "/models/half"}


def refused(given):
    with pytest.raises(ConfigurationError) as caught:
        read_options(given)
    return f"{caught.value.message} {caught.value.hint}"


def test_without_tls_the_server_listens_to_this_machine_alone():
    options = read_options({**MODEL, "rest_api_port": 8501})
    assert options.addresses == ("127.0.0.1:8500",)
    assert options.rest_address == "127.0.0.1:8501"
    assert options.tls is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "server.example"])  # noqa: S104
def test_plaintext_to_others_is_refused(host):
    said = refused({**MODEL, "host": host})
    assert "plaintext" in said
    assert "--insecure_plaintext" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_plaintext_to_this_machine_is_not(host):
    assert read_options({**MODEL, "host": host}).tls is None


def test_plaintext_to_others_can_be_asked_for():
    assert read_options({**MODEL, "insecure_plaintext": True}).addresses == ("0.0.0.0:8500",)
    options = read_options({**MODEL, "insecure_plaintext": True, "host": "::"})
    assert options.addresses == ("[::]:8500",)


def test_a_socket_can_be_all_there_is():
    assert read_options({**MODEL, "port": 0, "grpc_socket_path": "/run/s"}).addresses == ("unix:/run/s",)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "--model_base_path"),
        ({**MODEL, "model_config_file": "x"}, "both"),
        ({"model_config_file": "x", "model_name": "x"}, "--model_name"),
        ({**MODEL, "model_name": ""}, "empty"),
        ({**MODEL, "model_config_file_poll_wait_seconds": 1}, "--model_config_file"),
        ({**MODEL, "port": 0}, "--grpc_socket_path"),
        ({**MODEL, "port": 8501, "rest_api_port": 8501}, "8501"),
        ({**MODEL, "host": "no host"}, "no host"),
        ({**MODEL, "batching_parameters_file": "x"}, "--enable_batching"),
        ({**MODEL, "enable_per_model_batching_parameters": True}, "--enable_batching"),
        ({**MODEL, "engine": "onnx"}, "openvino and tensorflow"),
        ({**MODEL, "model_engine": ("tensorflow",)}, "--model_engine"),
        ({**MODEL, "model_engine": ("a=tensorflow", "a=openvino")}, "already"),
        ({**MODEL, "model_engine": ("a=x",)}, "'x'"),
        ({**MODEL, "precision": "f8"}, "f32, bf16, f16"),
        ({**MODEL, "mixed_precision": "float16"}, "bfloat16"),
        ({**MODEL, "mixed_precision": "bfloat16", "precision": "f32"}, "agree"),
        ({**MODEL, "tensorflow_session_parallelism": 1, "tensorflow_intra_op_parallelism": 1}, "intra_op"),
        ({**MODEL, "ssl_config_file": "/nowhere/x"}, "/nowhere/x"),
        ({**MODEL, "monitoring_config_file": "/nowhere/x"}, "/nowhere/x"),
    ],
)
def test_what_does_not_fit_together_is_refused(given, says):
    with pytest.raises(InputError) as caught:
        read_options(given)
    assert says in f"{caught.value.message} {caught.value.hint}"


def test_parallelism_is_that_of_the_engine():
    engines = read_options(
        {**MODEL, "tensorflow_intra_op_parallelism": 2, "tensorflow_inter_op_parallelism": 3}
    ).engines
    assert (engines.threads, engines.parallel_requests) == (2, 3)
    assert read_options({**MODEL, "tensorflow_session_parallelism": 4}).engines.threads == 4
    assert read_options({**MODEL, "mixed_precision": "bfloat16"}).engines.precision == "bf16"


def test_a_model_has_the_engine_that_is_named_for_it():
    engines = read_options({**MODEL, "model_engine": ("a=b=tensorflow",)}).engines
    assert engines.of("a=b") == "tensorflow"
    assert engines.of("a") == "openvino"


def test_requests_in_work_are_bounded_by_the_flag():
    assert read_options({**MODEL, "grpc_max_threads": 7}).limits.working == 7
    assert read_options(MODEL).limits == Limits()


def test_metrics_are_told_only_when_they_are_enabled(tmp_path):
    file = tmp_path / "monitoring"
    given = {**MODEL, "rest_api_port": 1, "monitoring_config_file": str(file)}
    file.write_text("prometheus_config { enable: true }")
    assert read_options(given).metrics_path == METRICS_PATH
    file.write_text('prometheus_config { enable: true, path: "/m" }')
    assert read_options(given).metrics_path == "/m"
    file.write_text('prometheus_config { path: "/m" }')
    assert read_options(given).metrics_path is None
    file.write_text('prometheus_config { enable: true, path: "/v1/models/x" }')
    assert "/v1/models/x" in refused(given)
    file.write_text("prometheus_config { enable: 7 }")
    assert "MonitoringConfig" in refused(given)
    file.write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused(given)


def test_metrics_without_a_rest_port_are_noted(tmp_path):
    file = tmp_path / "monitoring"
    file.write_text("prometheus_config { enable: true }")
    (note,) = read_options({**MODEL, "monitoring_config_file": str(file)}).notes
    assert note.setting == "--monitoring_config_file"


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("grpc.max_connection_age_ms=60000", "connection_seconds", 60.0),
        ("grpc.max_connection_age_ms=1,grpc.max_connection_age_ms=2000", "connection_seconds", 2.0),
        ("grpc.max_connection_age_grace_ms=500", "connection_grace_seconds", 0.5),
        (" grpc.max_connection_idle_ms=1000 , ", "idle_seconds", 1.0),
        ("grpc.max_concurrent_streams=5", "streams", 5),
        ("grpc.max_receive_message_length=2147483647", "message_bytes", 2147483647),
        ("grpc.max_receive_message_length=-1", "message_bytes", 2147483647),
        ("grpc.keepalive_time_ms=20000", "arguments", {"grpc.keepalive_time_ms": 20000}),
        ("", "connection_seconds", None),
    ],
)
def test_channel_arguments_are_limits_of_the_server(text, field, value):
    limits = apply_channel_arguments(Limits(), text)
    assert getattr(limits, field) == value
    assert limits.message_bytes <= limits.buffered_bytes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grpc.max_connection_age=1", "grpc.max_connection_age_ms"),
        ("grpc.whatever=1", "no setting"),
        ("grpc.max_connection_age_ms", "whole number"),
        ("grpc.max_connection_age_ms=soon", "whole number"),
        ("grpc.max_connection_age_ms=0", "connection_seconds"),
        ("grpc.max_connection_age_ms=99999999999", "whole number"),
        ("grpc.max_concurrent_streams=0", "above 0"),
        ("grpc.max_concurrent_streams=-1", "above 0"),
        ("grpc.max_allowed_incoming_connections=-1", "above 0"),
        ("grpc.http2.max_ping_strikes=0", "from 1"),
        ("grpc.compression_enabled_algorithms_bitset=7", "compressed"),
        ("grpc.default_compression_algorithm=2", "compressed"),
        ("=1", "no setting"),
    ],
)
def test_channel_arguments_that_take_a_bound_away_or_mean_nothing_are_refused(text, says):
    with pytest.raises(ConfigurationError) as caught:
        apply_channel_arguments(Limits(), text)
    assert says in f"{caught.value.message} {caught.value.hint}"


def test_a_setting_of_grpc_replaces_the_servers_own():
    limits = apply_channel_arguments(Limits(), "grpc.keepalive_time_ms=20000")
    options = limits.grpc_options()
    assert [value for name, value in options if name == "grpc.keepalive_time_ms"] == [20000]


def quoted(pem: bytes) -> str:
    return pem.decode().replace("\n", "\\n")


def ssl_config(tmp_path, certificate, extra=""):
    file = tmp_path / "ssl"
    key = quoted(bytes(certificate.key.reveal()))
    file.write_text(f'server_key: "{key}" server_cert: "{quoted(certificate.pem)}" {extra}')
    file.chmod(0o600)
    return {**MODEL, "ssl_config_file": str(file)}


def test_with_tls_the_server_listens_to_everybody_as_tensorflow_serving_does(tmp_path, certificate):
    options = read_options(ssl_config(tmp_path, certificate))
    assert options.addresses == ("0.0.0.0:8500",)
    assert options.tls.certificate_pem == certificate.pem
    assert options.tls.client_ca_pem is None


def test_clients_are_verified_when_the_file_says_so(tmp_path, certificate):
    authority = f'custom_ca: "{quoted(certificate.pem)}"'
    assert read_options(ssl_config(tmp_path, certificate, f"{authority} client_verify: true")).tls.client_ca_pem
    assert read_options(ssl_config(tmp_path, certificate, authority)).tls.client_ca_pem is None
    assert "custom_ca" in refused(ssl_config(tmp_path, certificate, "client_verify: true"))
    bad = 'client_verify: true custom_ca: "no PEM"'
    assert "certificates for clients" in refused(ssl_config(tmp_path, certificate, bad))


@pytest.mark.parametrize("text", ["", 'server_key: "a"', 'server_key: "a" server_cert: "b"', "{", 'server_kei: "a"'])
def test_a_tls_file_that_is_not_usable_is_refused(tmp_path, text):
    file = tmp_path / "ssl"
    file.write_text(text)
    assert str(file) in refused({**MODEL, "ssl_config_file": str(file)})


def test_what_is_wrong_with_a_tls_file_never_quotes_it(tmp_path):
    file = tmp_path / "ssl"
    for text in ('server_key: "MC4CAQ" "\n', "server_key: MC4CAQ", 'server_key: "a" MC4CAQ: 1', "MC4CAQ"):
        file.write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            read_options({**MODEL, "ssl_config_file": str(file)})
        assert "MC4CAQ" not in f"{caught.value.message}{caught.value.hint}{caught.value.__cause__}"
        assert caught.value.__suppress_context__


def test_a_key_of_another_certificate_is_refused(certificate):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    other = ec.generate_private_key(ec.SECP256R1())
    key = Secret(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InputError, match="not that of its certificate"):
        ServerTls(key, certificate.pem)
    assert "PRIVATE" not in repr(ServerTls(certificate.key, certificate.pem))


@pytest.mark.parametrize(
    ("given", "may"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"port": 0, "grpc_socket_path": "/run/s"}, True),
        ({"insecure_plaintext": True}, False),
        ({"insecure_plaintext": True, "host": "127.0.0.1"}, True),
        ({"insecure_plaintext": True, "allow_reload_requests": True}, True),
    ],
)
def test_only_callers_on_this_machine_say_which_models_are_served_unless_all_may(given, may):
    assert read_options({**MODEL, **given}).reload_requests is may


def test_callers_with_a_certificate_say_which_models_are_served_and_others_do_not(tmp_path, certificate):
    assert not read_options(ssl_config(tmp_path, certificate)).reload_requests
    verified = f'custom_ca: "{quoted(certificate.pem)}" client_verify: true'
    assert read_options(ssl_config(tmp_path, certificate, verified)).reload_requests
