"""``sealserve evidence quote`` and ``trust-domain``: from a guest to the policy that knows it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from evidence_corpus import REPORT_DATA

import sealserve.evidence
from sealserve.cli.evidence import evidence
from sealserve.enclave.measured import measured_settings, settings_register
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy, TsmAttester
from sealserve.evidence.errors import AttestationUnavailableError, MeasurementRefusedError
from sealserve.evidence.tsm import REPORTS
from trust_domains import DEBUG, SEPT_VE_DISABLE, Domain, Kernel, TdxPlatform, make_guest, measurement

CA = b"-----BEGIN CERTIFICATE-----\n"
REGISTER = settings_register(measured_settings(deployment="mine", broker_ca=CA))


@pytest.fixture(scope="module")
def tdx() -> TdxPlatform:
    return TdxPlatform()


@pytest.fixture
def files(tdx: TdxPlatform, tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_bytes(CA)
    (tmp_path / "collateral.json").write_text(tdx.collateral_json())
    (tmp_path / "root.pem").write_text(tdx.root_pem)
    (tmp_path / "quote").write_bytes(tdx.quote(Domain(), REPORT_DATA))
    return tmp_path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(evidence, [str(argument) for argument in arguments])


def record(files: Path, *more: Any) -> Result:
    given = ("--deployment", "mine", "--broker-ca", files / "ca.pem", "--collateral", "collateral.json")
    return run("trust-domain", files / "quote", *given, "-o", files / "policy.yaml", *more)


def recorded(files: Path) -> AppraisalPolicy:
    """The policy that was written, believing the platform of these tests."""
    path = files / "policy.yaml"
    path.write_text(path.read_text() + "trust_root: root.pem\n")
    return AppraisalPolicy.load(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"JFIF", "holds no certificate"), (CA + b"-----BEGIN PRIVATE KEY-----", "private key")],
)
def test_what_is_no_certificate_authority_is_not_measured(files: Path, content: bytes, says: str) -> None:
    (files / "ca.pem").write_bytes(content)
    result = record(files)
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert not (files / "policy.yaml").exists()


def test_the_policy_accepts_replicas_of_these_settings_in_such_a_guest(files: Path, tdx: TdxPlatform) -> None:
    result = record(files)
    assert result.exit_code == 0, result.output
    assert "read it before you use it" in result.output
    policy = recorded(files)
    assert policy.appraise(tdx.quote(Domain().with_rtmr(3, REGISTER), REPORT_DATA), report_data=REPORT_DATA)


@pytest.mark.parametrize(
    "domain",
    [
        Domain(),
        Domain().with_rtmr(3, measurement("other settings")),
        Domain(mrtd=measurement("another")).with_rtmr(3, REGISTER),
        *(Domain().with_rtmr(3, REGISTER).with_rtmr(index, measurement("another")) for index in range(3)),
        Domain(xfam=0x600E7).with_rtmr(3, REGISTER),
    ],
    ids=["no settings", "other settings", "MRTD", "RTMR0", "RTMR1", "RTMR2", "XFAM"],
)
def test_it_accepts_nothing_else(files: Path, tdx: TdxPlatform, domain: Domain) -> None:
    record(files)
    with pytest.raises(MeasurementRefusedError):
        recorded(files).appraise(tdx.quote(domain, REPORT_DATA), report_data=REPORT_DATA)


def test_a_quote_from_after_the_first_replica_makes_the_same_policy(files: Path, tdx: TdxPlatform) -> None:
    record(files)
    before = (files / "policy.yaml").read_text()
    (files / "policy.yaml").unlink()
    (files / "quote").write_bytes(tdx.quote(Domain().with_rtmr(3, REGISTER), REPORT_DATA))
    assert json.loads(record(files, "--json").output)["rtmr3"] == REGISTER.hex()
    assert (files / "policy.yaml").read_text() == before


@pytest.mark.parametrize(
    ("domain", "why"),
    [
        (Domain(attributes=SEPT_VE_DISABLE | DEBUG), "debug mode"),
        (Domain().with_rtmr(3, measurement("another")), "RTMR 3"),
    ],
    ids=["debug", "RTMR3"],
)
def test_a_guest_in_which_no_replica_would_be_accepted_makes_no_policy(
    files: Path, tdx: TdxPlatform, domain: Domain, why: str
) -> None:
    (files / "quote").write_bytes(tdx.quote(domain, REPORT_DATA))
    result = record(files)
    assert isinstance(result.exception, InputError)
    assert why in result.exception.message
    assert not (files / "policy.yaml").exists()


def test_what_is_no_quote_of_a_trust_domain_makes_no_policy(files: Path, quote: bytes) -> None:
    (files / "quote").write_bytes(quote)
    assert "of an SGX enclave" in str(record(files).exception)
    (files / "quote").write_bytes((files / "collateral.json").read_bytes())
    assert "holds collateral" in str(record(files).exception)


def test_settings_that_no_replica_can_have_make_no_policy(files: Path) -> None:
    """Here at home, and not in a guest, is where such a mistake is cheap."""
    for name in ("", "two words", "mine\n"):
        assert "name of a deployment" in str(record(files, "--deployment", name).exception)
    assert "no certificate" in str(record(files, "--broker-ca", files / "quote").exception)
    assert not (files / "policy.yaml").exists()


def test_a_policy_that_is_there_is_kept(files: Path) -> None:
    (files / "policy.yaml").write_text("mine")
    assert isinstance(record(files).exception, InputError)
    assert (files / "policy.yaml").read_text() == "mine"


def test_a_guest_is_quoted_into_a_file(tdx: TdxPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports, _ = make_guest(tmp_path / "guest", Kernel(tdx.machine))
    monkeypatch.setattr(sealserve.evidence, "TsmAttester", functools.partial(TsmAttester, reports))
    result = run("quote", "-o", tmp_path / "quote", "--report-data", REPORT_DATA.hex())
    assert result.exit_code == 0, result.output
    told = json.loads(run("show", tmp_path / "quote", "--json").output)
    assert (told["mrtd"], told["report_data"]) == (Domain().mrtd.hex(), REPORT_DATA.hex())


@pytest.mark.skipif(REPORTS.exists(), reason="this machine has configfs reports")
def test_elsewhere_there_is_no_quote(tmp_path: Path) -> None:
    assert isinstance(run("quote", "-o", tmp_path / "quote").exception, AttestationUnavailableError)
    assert list(tmp_path.iterdir()) == []
