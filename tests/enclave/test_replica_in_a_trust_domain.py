"""A broker process, a replica process in a stand-in TDX guest, and a client: sealserve's own code from end to end.

Only the kernel's files and the machine that signs are stand-ins (``tests/trust_domains.py``).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from replica_parties import Place, Process, answer

from sealserve.cli.client_verify import verify
from sealserve.enclave.measured import measured_settings, settings_register
from trust_domains import Domain, TdxPlatform, measurement

PROGRAM = (sys.executable, "-P", str(Path(__file__).with_name("guest_program.py")))


class GuestPlace(Place):
    """Like :class:`Place`, for trust domains."""

    def __init__(self, directory: Path, tdx: TdxPlatform | None = None) -> None:
        self.tdx = tdx or TdxPlatform()
        self.changes: dict[str, str] = {}
        super().__init__(directory)
        self.tdx.save_machine(directory / "machine")
        self.platform_options = ("--tee", "tdx")

    def policy(self, mrenclave: bytes) -> Path:
        del mrenclave
        settings = measured_settings(deployment="d", broker_ca=(self.directory / "ca.pem").read_bytes())
        domain = Domain().with_rtmr(3, settings_register(settings))
        return self.tdx.write_policy(self.directory, domain.reference() | self.changes)

    @contextlib.contextmanager
    def replica(self, *options: str, **others: Any) -> Iterator[Process]:
        program = (*PROGRAM, str(self.directory / "machine"))
        with super().replica(*options, program=program, **others) as process:
            yield process


@pytest.fixture
def place(tmp_path: Path) -> GuestPlace:
    return GuestPlace(tmp_path / "place")


def test_a_replica_in_a_trust_domain_gets_its_key_and_serves_clients_that_check_it(place: GuestPlace) -> None:
    with place.broker() as broker, place.replica() as replica:
        port = replica.until("replica-ready")["port"]
        assert replica.events("trust-domain")
        assert replica.events("simulated-enclave") == []
        with place.client(replica) as client:
            assert answer(client) == 2.0
            evidence = client.verify().evidence
        assert (evidence.tee, evidence.simulated) == ("tdx", False)
        assert evidence.trust_domain is not None
        assert evidence.trust_domain.mrtd == Domain().mrtd

        arguments = [f"127.0.0.1:{port}", "--policy", str(place.directory / "policy.yaml"), "--json"]
        report = json.loads(CliRunner().invoke(verify, arguments).output)
        assert report["accepted"] is True
        assert report["evidence"]["trust_domain"]["rtmrs"][3] == evidence.trust_domain.rtmrs[3].hex()

        place.changes = {"rtmr1": measurement("another kernel").hex()}
        place.policy(b"")
        refused = json.loads(CliRunner().invoke(verify, arguments).output)
        assert refused["refusal"]["reason"] == "measurement-refused"
        assert broker.events("grant-released")
        assert replica.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("register", ["mrtd", "rtmr1", "rtmr3"])
def test_a_replica_in_another_trust_domain_gets_no_key(place: GuestPlace, register: str) -> None:
    place.changes = {register: measurement("another").hex()}
    place.put_policy(b"")
    with place.broker() as broker, place.replica() as replica:
        assert replica.wait() == 4
        assert register.upper() in broker.events("grant-refused")[-1]["detail"]


@pytest.mark.slow
def test_a_replica_with_another_brokers_authority_is_known_by_its_evidence(place: GuestPlace, tmp_path: Path) -> None:
    """The host's own broker, which grants the host's model, gains a replica that no client of the owner accepts."""
    hosts = GuestPlace(tmp_path / "host", place.tdx)
    with hosts.broker(), hosts.replica() as replica:
        port = replica.until("replica-ready")["port"]
        place.policy(b"")
        arguments = [f"127.0.0.1:{port}", "--policy", str(place.directory / "policy.yaml"), "--json"]
        refused = json.loads(CliRunner().invoke(verify, arguments).output)
    assert refused["refusal"]["reason"] == "measurement-refused"
    assert "RTMR3" in refused["refusal"]["error"]


@pytest.mark.slow
def test_a_replica_for_trust_domains_says_what_a_machine_that_is_none_lacks(place: GuestPlace) -> None:
    with Place.replica(place) as replica:
        assert replica.wait() == 6
        assert "TDX guest" in "\n".join(replica.lines)
