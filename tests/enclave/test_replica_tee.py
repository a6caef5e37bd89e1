"""What a replica takes its evidence from."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealserve.enclave.attesters import create_attester
from sealserve.enclave.settings import ReplicaSettings
from sealserve.errors import InputError
from sealserve.evidence import GramineAttester


def _settings(**options: object) -> ReplicaSettings:
    return ReplicaSettings(
        name="r",
        listen="127.0.0.1:0",
        brokers=("127.0.0.1:1",),
        broker_ca=Path("ca.pem"),
        deployment="mine",
        sealed=Path("sealed"),
        server_name="replica.example",
        **options,  # type: ignore[arg-type]
    )


def test_inside_an_enclave_gramine_gives_the_evidence() -> None:
    assert isinstance(create_attester(_settings(tee="sgx"), broker_ca=b""), GramineAttester)


def test_without_an_enclave_a_simulated_platform_must_be_named() -> None:
    with pytest.raises(InputError, match="--platform goes with --tee simulated"):
        create_attester(_settings(), broker_ca=b"")
