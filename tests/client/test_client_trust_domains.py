"""What a client tells of a replica in a trust domain: the report, for people and scripts, kept and judged again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from client_parties import Replica

from sealserve.cli.client import predict
from sealserve.cli.client_verify import verify
from sealserve.client import DEFAULT_SERVER_NAME
from sealserve.evidence import TsmAttester
from sealserve.ratls import create_identity
from trust_domains import Domain, Kernel, TdxPlatform, make_guest, measurement

DOMAIN = Domain().with_rtmr(3, measurement("settings"))


@pytest.fixture(scope="module")
def tdx() -> TdxPlatform:
    return TdxPlatform()


@pytest.fixture
def guest(tdx: TdxPlatform, tmp_path: Path) -> Iterator[Replica]:
    attester = TsmAttester(make_guest(tmp_path / "guest", Kernel(tdx.machine, DOMAIN))[0])
    with Replica(create_identity(attester, server_names=[DEFAULT_SERVER_NAME]), attester) as replica:
        yield replica


def run(command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


def test_the_report_shows_every_register(guest: Replica, tdx: TdxPlatform, tmp_path: Path) -> None:
    result = run(verify, guest.target, "--policy", tdx.write_policy(tmp_path, DOMAIN.reference()))
    assert result.exit_code == 0, result.output
    assert "ACCEPTED  replica-1" in result.output
    lines = result.output.splitlines()
    assert f"MRTD  {DOMAIN.mrtd.hex()}" in lines
    for index, value in enumerate(DOMAIN.rtmrs):
        assert f"RTMR{index}  {value.hex()}" in lines
    assert "SIMULATED" not in result.output


def test_a_refusal_shows_them_too(guest: Replica, tdx: TdxPlatform, tmp_path: Path) -> None:
    other = DOMAIN.reference() | {"rtmr2": "ab" * 48}
    result = run(verify, guest.target, "--policy", tdx.write_policy(tmp_path, other))
    assert result.exit_code == 4
    assert "REFUSED" in result.output
    assert f"RTMR2  {DOMAIN.rtmrs[2].hex()}" in result.output.splitlines()


def test_scripts_get_the_registers_and_the_evidence_can_be_judged_again(
    guest: Replica, tdx: TdxPlatform, tmp_path: Path
) -> None:
    policy, kept = tdx.write_policy(tmp_path, DOMAIN.reference()), tmp_path / "kept.json"
    told = json.loads(run(verify, guest.target, "--policy", policy, "--save", kept, "--json").output)
    assert told["accepted"] is True
    assert told["evidence"]["tee"] == "tdx"
    assert told["evidence"]["trust_domain"]["mrtd"] == DOMAIN.mrtd.hex()
    assert told["evidence"]["trust_domain"]["rtmrs"] == [value.hex() for value in DOMAIN.rtmrs]
    assert run(verify, "--saved", kept, "--policy", policy).exit_code == 0
    told["evidence"]["trust_domain"]["rtmrs"][1] = "ab" * 48
    altered = tmp_path / "altered.json"
    altered.write_text(json.dumps(told))
    assert run(verify, "--saved", altered, "--policy", policy).exit_code == 4


def test_predict_says_which_trust_domain_was_checked(guest: Replica, tdx: TdxPlatform, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 4), np.uint8))
    policy = tdx.write_policy(tmp_path, DOMAIN.reference())
    result = run(predict, guest.target, "--policy", policy, "--npy", f"images={tmp_path / 'images.npy'}")
    assert result.exit_code == 0, result.output
    assert f"checked replica-1: MRTD {DOMAIN.mrtd.hex()[:16]}…, UpToDate" in result.output
