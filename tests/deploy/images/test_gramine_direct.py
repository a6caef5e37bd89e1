"""Our server as Gramine runs it, without SGX (``gramine-direct``). Where Gramine is not on PATH, this skips."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from gramine_place import Machine, needs_gramine, run, started

sys.path.insert(0, str(Path(__file__).parents[2] / "enclave"))
sys.path.insert(0, str(Path(__file__).parents[2] / "serving"))
from replica_parties import Place, answer
from serving_models import affine_model

from sealserve.client import Client
from sealserve.files import write_atomically
from sealserve.local.certificates import ensure_server_certificate
from sealserve.models.writing import write_saved_model

pytestmark = [needs_gramine, pytest.mark.slow, pytest.mark.timeout(600)]

KEY = bytes(range(16))


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Machine:
    return Machine.prepare(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    """The directory of a sealed model and its key file, ``half`` and ``key``.

    Gramine wants the path that the host has in an encrypted file, so that the host cannot exchange two.
    """
    directory = tmp_path_factory.mktemp("sealed")
    write_saved_model(directory / "plain", 1, affine_model(0.5, 2.0))
    write_atomically(directory / "key", KEY, mode=0o600)
    arguments = [
        "seal",
        directory / "plain",
        directory / "half",
        "--key",
        directory / "key",
        "--mount",
        directory / "half",
    ]
    run(sys.executable, "-m", "sealserve", *map(str, arguments))
    return directory


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def serve(machine, name, flags, sealed, mounts=(), **keys) -> list[float]:
    """The answer to [1, 2, 5] over REST, under Gramine."""
    ports = free_port(), free_port()
    arguments = ["-P", "-s", "-m", "sealserve", "serve", f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
    arguments += ["--json_logs", "--model_name=half", *flags]
    command = machine.inside(name, arguments, sealed, mounts, **keys)
    with started(*command, machine.directory / f"{name}.log") as server:
        server.wait_for("server-ready")
        url = f"http://127.0.0.1:{ports[1]}/v1/models/half:predict"
        with urllib.request.urlopen(url, json.dumps({"instances": [1, 2, 5]}).encode(), timeout=60) as answer:
            return json.load(answer)["predictions"]


def test_gramine_decrypts_what_we_sealed_and_our_server_serves_it(machine, sealed):
    """An encrypted mount: Gramine reads our files, and the server sees a model in the clear."""
    mount = {"type": "encrypted", "path": "/models/half", "uri": f"file:{sealed}/half", "key_name": "default"}
    flags = ["--model_base_path=/models/half"]
    assert serve(machine, "encrypted", flags, sealed / "half", [mount], default=KEY.hex()) == [2.5, 3.0, 4.5]


def test_our_server_unseals_by_itself_into_the_memory_of_the_enclave(machine, sealed):
    """As a replica does it: ciphertext from an ordinary mount, plaintext in memory files, which Gramine has not."""
    flags = ["--model_base_path=/sealed/half", "--key_file=/sealed/key"]
    assert serve(machine, "unsealed", flags, sealed) == [2.5, 3.0, 4.5]


def test_a_replica_attests_to_the_broker_and_serves_an_attesting_client(machine, tmp_path):
    """All of it but the quote's origin: on the simulated platform, whose files Gramine shows it."""
    place = Place(tmp_path / "place")
    # Gramine has no /etc/hosts, and so no localhost.
    files = [place.directory / name for name in ("broker.key", "broker.pem", "ca.key", "ca.pem")]
    ensure_server_certificate(files[0], files[1], authority_key=files[2], authority=files[3], hosts=["127.0.0.1"])
    arguments = ["-P", "-s", "-m", "sealserve", "replica", "--tee", "simulated", "--platform", "/simulated/platform"]
    arguments += ["--broker", f"127.0.0.1:{place.port}", "--broker-ca", "/simulated/ca.pem", "--deployment", "d"]
    arguments += ["--listen", "127.0.0.1:0", "--server-name", "replica.sealserve.internal", "--sealed", "/sealed"]
    mount = {"path": "/simulated", "uri": f"file:{place.directory}"}
    command = machine.inside("replica", [*arguments, "--json-logs"], place.sealed, [mount])
    with place.broker(), started(*command, machine.directory / "replica.log") as replica:
        replica.wait_for("replica-ready")
        lines = map(json.loads, replica.log.read_text().splitlines())
        port = next(line["port"] for line in lines if line["event"] == "replica-ready")
        with Client(f"127.0.0.1:{port}", place.client_policy()) as client:
            assert answer(client) == 2
