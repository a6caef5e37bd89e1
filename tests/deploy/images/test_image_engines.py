from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealserve.cli.image_build import build, run, sign
from sealserve.deploy.images.context import Context
from sealserve.deploy.images.engines import Engine, perform
from sealserve.deploy.images.mounts import mounts_of
from sealserve.deploy.images.signing_key import check_signing_key, generate_signing_key
from sealserve.errors import InputError, KeyFileError, MachineError

REPLICA = Context(Path("/c"), "replica", "team/a:1", rest=True, sealed_mount="/sealed")
UNMODIFIED = Context(Path("/c"), "replica", "team/a:1", sealed_mount="/models/a", tls=True)
BROKER = Context(Path("/c"), "broker", "team/a-broker:1")
CLIENT = Context(Path("/c"), "client", "team/a-client:1")


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_a_replica_is_built_unsigned_and_with_no_dates(engine) -> None:
    (command,) = Engine(engine).build(REPLICA)
    assert command[:4] == [engine, "build", "--file", "/c/Dockerfile"]
    assert command[-3:] == ["--tag", "team/a:1-unsigned", "/c"]
    assert ("SOURCE_DATE_EPOCH=0" in command) == (engine == "docker")
    assert ("--timestamp" in command) == (engine != "docker")
    assert Engine(engine).build(CLIENT)[0][-2] == "team/a-client:1"


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_the_signing_key_is_a_secret_of_one_step_without_network(engine) -> None:
    look, first, second = Engine(engine).sign(REPLICA, Path("/keys/key.pem"), Path("/out"))
    assert "inspect" in look
    assert look[-1] == "team/a:1-unsigned"
    assert "id=enclave-key,src=/keys/key.pem" in first
    assert "--no-cache" in first
    assert first[first.index("--network") + 1] == "none"
    assert first[first.index("--output") + 1] == "type=local,dest=/out"
    assert "--tag" not in first
    assert not [word for word in second if "key" in word]
    assert second[-3:] == ["--tag", "team/a:1", "/out"]


def test_only_a_replica_is_signed() -> None:
    with pytest.raises(InputError, match="no enclave"):
        Engine("docker").sign(BROKER, Path("/k"), Path("/o"))


def test_a_replica_runs_with_its_devices_and_nothing_more() -> None:
    command = Engine("docker").run(REPLICA, mounts=[(Path("/data/sealed"), "/sealed")])
    assert {"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(command)
    assert {"--device=/dev/sgx_enclave", "--device=/dev/sgx_provision"} <= set(command)
    assert "--volume=/data/sealed:/sealed:ro" in command
    assert {"--publish=127.0.0.1:8500:8500", "--publish=127.0.0.1:8501:8501"} <= set(command)
    assert not [word for word in command if "privileged" in word and word != "--security-opt=no-new-privileges"]
    assert not [word for word in command if word.startswith(("-e", "--env"))]
    assert command[-1] == "team/a:1"


def test_a_broker_gets_its_state_and_no_device() -> None:
    command = Engine("podman").run(BROKER, mounts=[(Path("/b"), "/state")], publish="::1")
    assert "--volume=/b:/state" in command
    assert "--publish=[::1]:4433:4433" in command
    assert not [word for word in command if "sgx" in word or "aesm" in word]


@pytest.mark.parametrize("publish", ["", "0.0.0.0:1", "localhost", "1.2.3.4:1 --privileged", "-"])
def test_ports_are_published_at_an_address_and_nowhere_else(publish: str) -> None:
    with pytest.raises(InputError, match="no IP address"):
        Engine("docker").run(BROKER, mounts=[(Path("/b"), "/state")], publish=publish)


@pytest.mark.parametrize("name", ["a:b", "a,target=/etc", 'a"b'])
def test_a_name_that_an_engine_would_take_apart_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="a comma, colon or quote"):
        Engine("docker").run(BROKER, mounts=[(Path("/", name), "/state")])
    for key, output in ((Path("/", name), Path("/out")), (Path("/key.pem"), Path("/", name))):
        with pytest.raises(InputError, match="a comma, colon or quote"):
            Engine("podman").sign(REPLICA, key, output)


def test_buildah_runs_nothing() -> None:
    with pytest.raises(MachineError, match="does not run"):
        Engine("buildah").run(CLIENT)


def test_an_engine_is_found_on_the_path_or_said_to_be_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="a container engine is not installed"):
        Engine.find()
    for name in ("podman", "buildah"):
        (tmp_path / name).touch(mode=0o755)
    assert Engine.find().name == "podman"
    assert Engine.find("buildah").name == "buildah"
    with pytest.raises(MachineError, match="docker is not installed"):
        Engine.find("docker")


def test_an_engine_that_fails_is_an_error(tmp_path) -> None:
    with pytest.raises(MachineError, match="`false x` failed with status 1"):
        perform(["false", "x"])
    with pytest.raises(MachineError, match="cannot be started"):
        perform([str(tmp_path / "nothing"), "build"])


def test_mounts_are_what_the_kind_of_image_needs(tmp_path) -> None:
    here = tmp_path
    nothing = {"sealed": None, "tls": None, "state": None, "arguments": ()}
    assert mounts_of(REPLICA, **{**nothing, "sealed": here}) == [(here, "/sealed")]
    assert mounts_of(UNMODIFIED, **{**nothing, "sealed": here, "tls": here}) == [(here, "/models/a"), (here, "/tls")]
    assert mounts_of(BROKER, **{**nothing, "state": here}) == [(here, "/state")]
    assert mounts_of(CLIENT, **{**nothing, "arguments": ("verify", "x:1")}) == []
    for context, given, message in (
        (REPLICA, nothing, "needs --sealed"),
        (REPLICA, {**nothing, "sealed": here, "tls": here}, "has no use for --tls"),
        (UNMODIFIED, {**nothing, "sealed": here}, "needs --tls"),
        (CLIENT, {**nothing, "state": here}, "has no use for --state"),
        (REPLICA, {**nothing, "sealed": here / "x"}, "no directory"),
        (REPLICA, {**nothing, "sealed": here, "arguments": ("--listen",)}, "takes no arguments"),
    ):
        with pytest.raises(InputError, match=message):
            mounts_of(context, **given)


@pytest.fixture(scope="module")
def signing_key(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key.pem"
    generate_signing_key(path)
    return path


def test_a_signing_key_is_what_sgx_demands_and_the_owners_alone(signing_key) -> None:
    check_signing_key(signing_key)
    key = serialization.load_pem_private_key(signing_key.read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert (key.key_size, key.public_key().public_numbers().e) == (3072, 3)
    assert stat.S_IMODE(signing_key.stat().st_mode) == 0o600
    with pytest.raises(KeyFileError, match="there already"):
        generate_signing_key(signing_key)


def test_a_signing_key_that_is_not_there_is_said_to_be_one(tmp_path) -> None:
    with pytest.raises(KeyFileError, match="no signing key") as refused:
        check_signing_key(tmp_path / "enclave.pem")
    assert "--new-key" in (refused.value.hint or "")


def test_another_kind_of_key_is_refused_before_anything_is_built(tmp_path) -> None:
    path = tmp_path / "key.pem"
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    short = rsa.generate_private_key(public_exponent=3, key_size=1024)  # noqa: S505 - quick to make, and refused
    for key in (short, ec.generate_private_key(ec.SECP256R1())):
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, traditional, serialization.NoEncryption()))
        path.chmod(0o600)
        with pytest.raises(KeyFileError, match="exponent 3"):
            check_signing_key(path)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="read by others"):
        check_signing_key(path)
    path.write_text("nonsense")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="not a private key"):
        check_signing_key(path)


@pytest.fixture
def context_directory(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/image.json").write_text(
        '{"kind": "replica", "image": "team/a:1", "rest": false, "sealed_mount": "/sealed", "tls": false, '
        '"version": "0", "files": []}'
    )
    return tmp_path / "c"


def test_a_dry_run_prints_the_commands_and_makes_nothing(context_directory, tmp_path) -> None:
    shown = {"--context": str(context_directory), "--engine": "docker"}
    options = [word for pair in shown.items() for word in pair] + ["--dry-run"]
    done = CliRunner().invoke(build, options)
    assert done.output.startswith("docker build --file ")
    done = CliRunner().invoke(sign, [*options, "--key", str(tmp_path / "k.pem"), "--new-key"])
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) == 3
    done = CliRunner().invoke(run, [*options, "--sealed", str(tmp_path)])
    assert done.output.startswith("docker run --rm ")
    assert {path.name for path in tmp_path.iterdir()} == {"c"}


def test_signing_lends_the_key_and_keeps_what_the_engine_puts_out(
    context_directory, tmp_path, signing_key, monkeypatch
) -> None:
    program = tmp_path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@" >> "$LOG"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    out = tmp_path / "signature"
    arguments = ["--context", str(context_directory), "--engine", "podman", "--key", str(signing_key), "-o", str(out)]
    done = CliRunner().invoke(sign, arguments)
    assert done.exit_code == 0, done.output
    _, first, second = (tmp_path / "log").read_text().splitlines()
    assert f"src={signing_key}" in first
    assert str(out) in second
    assert "PRIVATE KEY" not in done.output + first + second
    assert out.is_dir()


@pytest.mark.parametrize("name", ["fetch-key.sh", "prune.sh"])
def test_the_scripts_of_the_context_are_shell(name) -> None:
    script = Path(__file__).parents[3] / "src/sealserve/deploy/images/files" / name
    assert subprocess.run(["/bin/sh", "-n", script], check=False).returncode == 0
