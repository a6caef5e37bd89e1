from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sealserve.addresses import Address
from sealserve.deploy import Deployment, load_deployment, render_template
from sealserve.errors import ConfigurationError, InputError

SMALLEST: dict[str, Any] = {"name": "mine", "model": {"name": "classifier", "path": "model"}}


def _write(directory: Path, content: Any) -> Path:
    path = directory / "deployment.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merged(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def test_name_and_model_are_enough(tmp_path: Path) -> None:
    deployment = load_deployment(_write(tmp_path, SMALLEST))
    assert deployment.tee == "simulated"
    assert deployment.replicas.count == 2
    assert deployment.gateway.listen == Address("127.0.0.1", 8500)
    assert deployment.broker.listen == Address("127.0.0.1", 4433)
    assert deployment.gateway.rest_listen is None
    assert deployment.tls.server_name == "replica.sealserve.internal"
    assert deployment.model.mount_path == "/models/classifier"


def test_trust_domains_are_described_like_simulated_enclaves(tmp_path: Path) -> None:
    assert load_deployment(_write(tmp_path, SMALLEST | {"tee": "tdx"})).tee == "tdx"


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    deployment = load_deployment(_write(tmp_path, SMALLEST))
    assert deployment.model.path == tmp_path / "model"
    assert deployment.state == tmp_path / ".sealserve"


def test_certificates_of_ones_own_are_found_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    own = {"certificate": "s.pem", "private_key": "/keys/s.pem", "authority": "ca.pem", "client_authority": "c.pem"}
    tls = load_deployment(_write(tmp_path, _merged(SMALLEST, {"tls": {"mode": "two-way", **own}}))).tls
    assert tls.mode == "two-way"
    assert (tls.certificate, tls.private_key) == (tmp_path / "s.pem", Path("/keys/s.pem"))
    assert (tls.authority, tls.client_authority) == (tmp_path / "ca.pem", tmp_path / "c.pem")


def test_absolute_paths_stay(tmp_path: Path) -> None:
    content = _merged(SMALLEST, {"model": {"path": "/somewhere/../else"}, "state": "/state"})
    deployment = load_deployment(_write(tmp_path, content))
    assert deployment.model.path == Path("/else")
    assert deployment.state == Path("/state")


def test_threads_are_shared_among_replicas_but_never_less_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for count, threads in [(1, 8), (2, 4), (3, 2), (32, 1)]:
        assert (
            Deployment.model_validate(_merged(SMALLEST, {"replicas": {"count": count}})).replicas.threads_each
            == threads
        )
    given = Deployment.model_validate(_merged(SMALLEST, {"replicas": {"threads": 3}}))
    assert given.replicas.threads_each == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"engine": "tensorflow-serving"}}, "model.engine: tensorflow-serving runs with tee: sgx only"),
        ({"image": {"name": "No Image"}}, "image.name: must be the name of an image"),
        ({"image": {"base": "debian:12"}}, "image.base: must be pinned by digest"),
        ({"image": {"base": "debian@sha256:12"}}, "image.base: must be NAME@sha256: and 64 hexadecimal digits"),
        ({"image": {"brokers": []}}, "image.brokers: must have at least 1"),
        ({"image": {"brokers": ["nowhere"]}}, "image.brokers[0]: is not an address"),
        (
            {"image": {"enclave_size": "3G"}},
            "image.enclave_size: must be a power of two, as the processor demands: 2G or 4G",
        ),
        ({"image": {"enclave_size": "8GB"}}, "image.enclave_size: must be auto or a size such as"),
        ({"image": {"enclave_size": "2M"}}, "image.enclave_size: must be from 256M to 1T"),
        ({"image": {"max_threads": 2}}, "image.max_threads: must be auto or a number from 4"),
        ({"image": {"isv_svn": 65536}}, "image.isv_svn: must be at most 65535"),
        ({"tee": "none"}, "simulated"),
        ({"name": "Has Capitals"}, "name"),
        ({"name": "-x"}, "name"),
        ({"model": {"name": "../x"}}, "model.name"),
        ({"model": {"mount": "models/x"}}, "absolute path"),
        ({"model": {"mount": "/models/../x"}}, "absolute path"),
        ({"model": {"engine": "onnxruntime"}}, "openvino"),
        ({"tls": {"mode": "mutual"}}, "two-way"),
        ({"tls": {"certificate": "a", "private_key": "b", "authority": "c"}}, "tls.certificate: goes with mode"),
        ({"tls": {"mode": "one-way", "private_key": "b"}}, "tls.private_key: needs certificate and authority"),
        ({"tls": {"mode": "one-way", "client_authority": "c"}}, "tls.client_authority: goes with mode: two-way"),
        ({"tls": {"mode": "two-way", "client_authority": ""}}, "tls.client_authority: must not be empty"),
        ({"tls": {"server_name": "127.0.0.1"}}, "DNS name"),
        ({"tls": {"server_name": 'x"; y'}}, "DNS name"),
        ({"replicas": {"count": 0}}, "replicas.count"),
        ({"replicas": {"count": 1001}}, "replicas.count"),
        ({"replicas": {"threads": 0}}, "replicas.threads"),
        ({"broker": {"listen": "4433"}}, "broker.listen"),
        ({"broker": {"listen": "127.0.0.1:99999"}}, "broker.listen"),
        ({"gateway": {"listen": "127.0.0.1:4433"}}, "same port 4433"),
        ({"gateway": {"listen": "localhost:8500"}}, "gateway.listen: must have an IP address"),
        ({"gateway": {"rest_listen": "localhost:8501"}}, "gateway.rest_listen: must have an IP address"),
        ({"gateway": {"rest_listen": "8501"}}, "gateway.rest_listen"),
        ({"gateway": {"rest_listen": ""}}, "gateway.rest_listen"),
        ({"gateway": {"listen": "::1:8500"}}, 'in quotes: "[::1]:8500"'),
        ({"model": {"path": ""}}, "model.path: must not be empty"),
        ({"state": " "}, "state: must not be empty"),
        ({"replica": {"count": 1}}, "replica"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = _write(tmp_path, _merged(SMALLEST, changes))
    with pytest.raises(ConfigurationError) as caught:
        load_deployment(path)
    assert message in caught.value.message
    assert f"{path}:" in caught.value.message


def test_an_image_is_described_beside_its_deployment(tmp_path: Path) -> None:
    base = "registry.example:5000/base/debian:12@sha256:" + 64 * "a"
    image = {"name": "registry.example/team/classifier:1", "base": base, "broker_ca": "ca.pem", "enclave_size": "4G"}
    deployment = load_deployment(_write(tmp_path, _merged(SMALLEST, {"tee": "sgx", "image": image})))
    assert deployment.image.base == base
    assert deployment.image.broker_ca == tmp_path / "ca.pem"
    assert deployment.image.max_threads == "auto"


@pytest.mark.parametrize("missing", ["name", "model"])
def test_what_has_no_default_must_be_given(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ConfigurationError, match=missing):
        load_deployment(_write(tmp_path, {key: value for key, value in SMALLEST.items() if key != missing}))


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="deployment"):
        load_deployment(tmp_path / "deployment.yaml")


def test_the_template_loads_back_to_the_defaults(tmp_path: Path) -> None:
    from_template = load_deployment(_write(tmp_path, render_template({"name": "mine"})))
    assert from_template == load_deployment(_write(tmp_path, SMALLEST))


def test_the_template_explains_every_setting() -> None:
    text = render_template({})

    def check(model: Any) -> None:
        for name, field in model.model_fields.items():
            assert field.description, name
            assert f"{name}:" in text
            assert field.description.split()[0] in text
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)

    check(Deployment)
    # A digest cannot be wrapped.
    assert max(len(line) for line in text.splitlines() if "@sha256:" not in line) <= 100


def test_any_number_of_ports_may_be_any_free_one(tmp_path: Path) -> None:
    free = {"broker": {"listen": "127.0.0.1:0"}, "gateway": {"listen": "127.0.0.1:0", "rest_listen": "127.0.0.1:0"}}
    assert load_deployment(_write(tmp_path, SMALLEST | free)).gateway.rest_listen == Address("127.0.0.1", 0)


def test_rest_is_a_comment_in_the_template_that_works_once_it_is_none(tmp_path: Path) -> None:
    text = render_template({"name": "mine"})
    commented = "  # rest_listen: 127.0.0.1:8501\n"
    assert commented in text
    path = _write(tmp_path, text.replace(commented, commented.replace("# ", "")))
    assert load_deployment(path).gateway.rest_listen == Address("127.0.0.1", 8501)


def test_values_in_the_template_survive_quoting(tmp_path: Path) -> None:
    values = {"name": "on", "model.name": "1.0", "model.path": "a: b # c \N{GREEK SMALL LETTER ALPHA}"}
    deployment = load_deployment(_write(tmp_path, render_template(values)))
    assert deployment.name == "on"
    assert deployment.model.name == "1.0"
    assert deployment.model.path.name == values["model.path"]


@pytest.mark.parametrize(
    ("text", "line", "setting"),
    [
        ("gateway:\n  listen: 127.0.0.1:4433\n", 3, "gateway.listen"),
        ("broker:\n  listen: 127.0.0.1:8500\n", 3, "broker.listen"),
        ("broker:\n  listen: 127.0.0.1:1\ngateway:\n  listen: 127.0.0.1:1\n", 5, "gateway.listen"),
        ("gateway:\n  rest_listen: 127.0.0.1:8500\n", 3, "gateway.rest_listen"),
        ("gateway:\n  rest_listen: 127.0.0.1:4433\n", 3, "gateway.rest_listen"),
        ("gateway:\n  rest_listen: 127.0.0.1:1\n  listen: 127.0.0.1:1\n", 3, "gateway.rest_listen"),
        ("gateway:\n  rest_listen: 127.0.0.1:1\nbroker:\n  listen: 127.0.0.1:1\n", 3, "gateway.rest_listen"),
    ],
)
def test_a_port_that_is_given_twice_is_reported_in_its_line(tmp_path: Path, text: str, line: int, setting: str) -> None:
    path = _write(tmp_path, "name: mine\n" + text + "model: {name: classifier, path: model}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_deployment(path)
    assert caught.value.message.startswith(f"{path}:{line}: {setting}: must not be the same port")
