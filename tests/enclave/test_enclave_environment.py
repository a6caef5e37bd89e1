"""What a host could turn on by environment variables, and a replica does not let it.

Each test is made twice: with a replica that keeps its environment, to see that the variable does something.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from replica_parties import SEALSERVE, Place, answer

from sealserve.enclave.environment import KEPT

GULLIBLE = (
    sys.executable,
    "-P",
    "-c",
    "from sealserve.enclave import replica; replica.drop_environment = int;from sealserve.cli.main import main; main()",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("environment") / "place")


@pytest.mark.parametrize("program", [SEALSERVE, GULLIBLE], ids=["replica", "gullible"])
def test_no_library_writes_the_model_or_requests_out(place: Place, program: tuple[str, ...]) -> None:
    tells = {
        "OV_ENABLE_SERIALIZE_TRACING": "1",
        "GRPC_VERBOSITY": "debug",
        "GRPC_TRACE": "all",
        "SSLKEYLOGFILE": str(place.directory / "work" / "keys"),
    }
    with place.broker(), place.replica(program=program, **tells) as replica, place.client(replica) as client:
        assert answer(client) == 2
        written = sorted(path.name for path in (place.directory / "work").iterdir())
        noise = [line for line in replica.lines if not line.startswith("{")]
        replica.stop()
    if program == SEALSERVE:
        assert (written, noise) == ([], [])
    else:
        assert any(name.endswith(".bin") for name in written), "OpenVINO writes the plaintext model"
        assert any("tensorflow.serving.PredictionService" in line for line in noise), (
            "gRPC writes headers that it decrypted"
        )


@pytest.mark.parametrize("program", [SEALSERVE, GULLIBLE], ids=["replica", "gullible"])
def test_openssl_is_not_configured_by_the_host(place: Place, program: tuple[str, ...]) -> None:
    configuration = place.directory / "openssl.cnf"
    configuration.write_text(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = d\n[d]\nMaxProtocol = TLSv1.2\n"
    )
    with place.broker(), place.replica(program=program, OPENSSL_CONF=str(configuration)) as replica:
        if program == SEALSERVE:
            replica.until("replica-ready")
        else:
            assert replica.wait() != 0, "the broker speaks TLS 1.3 only"


def test_all_but_two_variables_are_dropped_for_c_libraries_too() -> None:
    program = (
        "import ctypes, os; from sealserve.enclave.environment import drop_environment; drop_environment();"
        "libc = ctypes.CDLL(None); libc.getenv.restype = ctypes.c_char_p;"
        "print(sorted(os.environ), libc.getenv(b'GRPC_TRACE'), libc.getenv(b'TMPDIR'))"
    )
    environment = {**os.environ, "GRPC_TRACE": "all", "TMPDIR": "/x", "NOTIFY_SOCKET": "/y", "LD_BIND_NOW": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == f"{sorted({*KEPT, 'GRPC_VERBOSITY', 'OPENBLAS_NUM_THREADS'})} None b'/x'"


def test_no_library_that_reads_the_environment_is_loaded_before_it_is_dropped() -> None:
    program = (
        "import sys, sealserve.cli.main, sealserve.cli.replica, sealserve.logs, sealserve.enclave.replica;"
        "print({'_hashlib', '_ssl', 'cryptography', 'OpenSSL', 'grpc', 'numpy', 'openvino'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_the_gullible_replica_differs_in_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run([*GULLIBLE, "replica", "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert "--broker-ca" in done.stdout
