from __future__ import annotations

import io
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import text_format

from sealserve.cli.tls import tls
from sealserve.deploy.tls_files import SealTo, TlsRequest, write_tls_files
from sealserve.errors import InputError
from sealserve.sealing import EncryptedReader, generate_wrap_key, read_wrap_key
from sealserve.wire.tensorflow_serving_config_pb2 import SSLConfig

SERVER, CLIENT = "grpc.tf-serving.service.com", "client.tf-serving.service.com"
ONE_WAY = TlsRequest([SERVER])
TWO_WAY = TlsRequest([SERVER, "127.0.0.1"], CLIENT)

# What the seed's text says its two scripts leave, without the signing requests, which nothing reads.
ONE_WAY_FILES = {"ssl.cfg", "server/key.pem", "server/cert.pem"}
TWO_WAY_FILES = ONE_WAY_FILES | {"ca_key.pem", "ca_cert.pem", "client/key.pem", "client/cert.pem"}


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl here")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("request_", "expected"), [(ONE_WAY, ONE_WAY_FILES), (TWO_WAY, TWO_WAY_FILES)])
def test_the_directory_has_the_originals_files_and_private_keys_are_private(tmp_path, request_, expected) -> None:
    directory = tmp_path / "ssl_configure"
    written = write_tls_files(request_, directory)
    assert files_in(directory) == {str(path.relative_to(directory)) for path in written} == expected
    for path in written:
        private = path.name == "ssl.cfg" or "key" in path.name
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if private else 0o644), path
    assert [path.name for path in tmp_path.iterdir()] == ["ssl_configure"]


def test_openssl_accepts_both_sides_strictly(tmp_path) -> None:
    write_tls_files(TWO_WAY, tmp_path / "t")
    for purpose, name, file in (("sslserver", SERVER, "server"), ("sslclient", CLIENT, "client")):
        verify = ("verify", "-x509_strict", "-CAfile", tmp_path / "t/ca_cert.pem", "-purpose", purpose)
        certificate = tmp_path / f"t/{file}/cert.pem"
        assert openssl(*verify, "-verify_hostname", name, certificate).returncode == 0
        assert openssl(*verify, "-verify_hostname", "other.example", certificate).returncode != 0
        other = "sslclient" if purpose == "sslserver" else "sslserver"
        assert openssl(*verify[:-1], other, certificate).returncode != 0


@pytest.mark.parametrize(("kind", "shown"), [("ec", "prime256v1"), ("rsa", "Public-Key: (3072 bit)")])
def test_keys_are_ec_unless_rsa_is_asked_for(tmp_path, kind, shown) -> None:
    write_tls_files(TlsRequest([SERVER], key_kind=kind), tmp_path / "t")
    certificate = tmp_path / "t/server/cert.pem"
    assert shown in openssl("x509", "-noout", "-text", "-in", certificate).stdout
    assert openssl("verify", "-CAfile", certificate, "-purpose", "sslserver", certificate).returncode == 0


def test_the_configuration_is_the_servers_own_message(tmp_path) -> None:
    write_tls_files(TWO_WAY, tmp_path / "t")
    text = (tmp_path / "t/ssl.cfg").read_text()
    assert [line.partition(":")[0] for line in text.splitlines()] == [
        "server_key", "server_cert", "custom_ca", "client_verify",
    ]  # fmt: skip
    config = text_format.Parse(text, SSLConfig())
    assert config.server_key == (tmp_path / "t/server/key.pem").read_text()
    assert config.server_cert == (tmp_path / "t/server/cert.pem").read_text()
    assert config.custom_ca == (tmp_path / "t/ca_cert.pem").read_text()
    assert config.client_verify


def test_one_way_asks_clients_for_nothing(tmp_path) -> None:
    write_tls_files(ONE_WAY, tmp_path / "t")
    config = text_format.Parse((tmp_path / "t/ssl.cfg").read_text(), SSLConfig())
    assert not config.client_verify
    assert not config.custom_ca


def test_the_sealed_configuration_opens_at_its_mount_alone(tmp_path) -> None:
    generate_wrap_key(tmp_path / "wrap.key")
    with read_wrap_key(tmp_path / "wrap.key") as key:
        write_tls_files(ONE_WAY, tmp_path / "t", seal_to=SealTo(key, "/tls"))
        sealed = (tmp_path / "t/sealed/ssl.cfg").read_bytes()
        with EncryptedReader.open(tmp_path / "t/sealed/ssl.cfg", key) as reader:
            assert reader.path == "/tls/ssl.cfg"
            assert io.BufferedReader(reader).read() == (tmp_path / "t/ssl.cfg").read_bytes()
    assert b"PRIVATE" not in sealed


@pytest.mark.parametrize("name", ["", "a b", "-x", "1.2.3", "*", "a/b", "x" * 254])
def test_what_is_no_name_is_refused_and_nothing_is_written(tmp_path, name) -> None:
    with pytest.raises(InputError, match="neither a DNS name nor an IP address"):
        write_tls_files(TlsRequest([SERVER, name]), tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_a_long_name_is_whole_where_clients_look(tmp_path) -> None:
    name = ".".join(["service", "n" * 60, "svc", "cluster", "local"])
    write_tls_files(TlsRequest([name]), tmp_path / "t")
    assert f"DNS:{name}" in openssl("x509", "-noout", "-text", "-in", tmp_path / "t/server/cert.pem").stdout


def test_files_that_are_there_are_replaced_on_request_only(tmp_path) -> None:
    write_tls_files(TWO_WAY, tmp_path / "t")
    before = (tmp_path / "t/ssl.cfg").read_text()
    with pytest.raises(InputError, match="is there already"):
        write_tls_files(ONE_WAY, tmp_path / "t")
    assert (tmp_path / "t/ssl.cfg").read_text() == before
    write_tls_files(ONE_WAY, tmp_path / "t", replace=True)
    assert files_in(tmp_path / "t") == ONE_WAY_FILES


def test_a_directory_with_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="something else"):
        write_tls_files(ONE_WAY, tmp_path, replace=True)
    assert files_in(tmp_path) == {"thesis.tex"}


def test_the_command_takes_the_scripts_arguments(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(tls, ["two-way", SERVER, CLIENT])
    assert done.exit_code == 0, done.output
    assert files_in(tmp_path / "ssl_configure") == TWO_WAY_FILES
    assert "PRIVATE" not in done.output
