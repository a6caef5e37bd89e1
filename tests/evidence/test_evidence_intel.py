"""Intel's real quotes, judged at a time inside the validity of their collateral."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from evidence_corpus import make_platform

from sealserve.errors import EvidenceError
from sealserve.evidence import AppraisalPolicy, Collateral, FixedCollateral, PlatformProfile, TrustRoot, Verifier
from sealserve.evidence.collateral_checks import check_signatures, older_parts
from sealserve.evidence.errors import (
    CollateralExpiredError,
    CollateralMismatchError,
    CollateralNotYetValidError,
    CollateralSignatureInvalidError,
    EvidenceRefusedError,
    QuoteMalformedError,
    RevokedError,
    UntrustedRootError,
)
from sealserve.evidence.policy import MrEnclave, PlatformKind, TcbCurrent
from sealserve.evidence.quote import parse_quote
from sealserve.evidence.service import PlatformKey
from sealserve.evidence.simulated import der
from sealserve.evidence.simulated.certificates import issue_revocation_list


class Sample(NamedTuple):
    quote: bytes
    collateral: Collateral
    at: datetime

    def verifier(self, root: TrustRoot | None = None, at: datetime | None = None) -> Verifier:
        clock = (at or self.at).timestamp
        return Verifier(root or TrustRoot.intel(), FixedCollateral(self.collateral), clock=clock)


def load(vectors: Path, kind: str) -> Sample:
    collateral = Collateral.from_json((vectors / "quotes" / f"{kind}_quote_collateral.json").read_bytes())
    quote = (vectors / "quotes" / f"{kind}_quote").read_bytes()
    return Sample(quote, collateral, collateral.tcb_info.validity.not_before + timedelta(hours=1))


@pytest.fixture(params=["sgx", "tdx"])
def sample(request: pytest.FixtureRequest, shared_vectors: Path) -> Sample:
    return load(shared_vectors, request.param)


def test_an_sgx_quote_of_intel_is_genuine(shared_vectors: Path) -> None:
    evidence = load(shared_vectors, "sgx")
    verified = evidence.verifier().verify(evidence.quote)
    assert verified.tee == "sgx"
    assert not verified.simulated
    assert not verified.debug
    assert verified.report_data == b"Hello, world!".ljust(64, b"\0")
    assert verified.mrenclave.hex().startswith("33d8736d")
    assert verified.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert verified.advisory_ids == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert verified.fmspc.hex() == "00a067110000"
    assert verified.trust_domain is None


def test_a_tdx_quote_of_intel_is_genuine(shared_vectors: Path) -> None:
    evidence = load(shared_vectors, "tdx")
    verified = evidence.verifier().verify(evidence.quote)
    assert verified.tee == "tdx"
    assert verified.tcb_status == "UpToDate"
    assert verified.mrenclave == b""
    assert verified.trust_domain is not None
    assert verified.trust_domain.mrtd.hex().startswith("91eb2b44")
    assert [value.hex()[:4] for value in verified.trust_domain.rtmrs] == ["44c0", "0084", "d833", "0000"]


def test_after_the_collateral_expired_it_is_refused(sample: Sample) -> None:
    with pytest.raises(CollateralExpiredError, match="expired at 2025-07-19"):
        sample.verifier(at=sample.at + timedelta(days=31)).verify(sample.quote)


def test_before_the_collateral_was_issued_it_is_refused(sample: Sample) -> None:
    with pytest.raises(CollateralNotYetValidError, match="not valid before 2025-06-19"):
        sample.verifier(at=sample.at - timedelta(days=1)).verify(sample.quote)


def test_under_another_root_it_is_refused(sample: Sample) -> None:
    root = TrustRoot.from_der(make_platform().root_der)
    with pytest.raises(UntrustedRootError):
        sample.verifier(root).verify(sample.quote)


def test_with_the_collateral_of_another_platform_it_is_refused(shared_vectors: Path) -> None:
    sgx, tdx = load(shared_vectors, "sgx"), load(shared_vectors, "tdx")
    with pytest.raises(CollateralMismatchError):
        sgx.verifier().verify(tdx.quote)


def test_a_flipped_bit_anywhere_is_refused(sample: Sample) -> None:
    verifier = sample.verifier()
    for position in range(0, len(sample.quote), 5):
        changed = bytearray(sample.quote)
        changed[position] ^= 1 << (position % 8)
        with pytest.raises(EvidenceError):
            verifier.verify(bytes(changed))


def test_a_truncated_quote_is_malformed(sample: Sample) -> None:
    verifier = sample.verifier()
    whole = len(sample.quote.rstrip(b"\0")) + 1  # A quote may be padded with zeros; its last own byte is a zero, too.
    for size in [*range(0, 700, 13), *range(700, whole, 101), whole - 1]:
        with pytest.raises(QuoteMalformedError):
            verifier.verify(sample.quote[:size])


def test_bytes_after_the_quote_are_malformed(sample: Sample) -> None:
    with pytest.raises(QuoteMalformedError, match="too many"):
        sample.verifier().verify(sample.quote + b"\0\1")


def revoking(certificate: x509.Certificate, at: datetime) -> bytes:
    """A list that revokes a certificate, with a signature that is not Intel's. The library issues none with serial
    numbers as long as Intel's."""

    def time(moment: datetime) -> bytes:
        text = f"{moment:%y%m%d%H%M%SZ}".encode()
        return bytes([0x17, len(text)]) + text

    algorithm = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
    entry = der.sequence(der.integer(certificate.serial_number), time(at))
    issuer = certificate.issuer.public_bytes()
    end = at + timedelta(days=30)
    body = der.sequence(der.integer(1), algorithm, issuer, time(at), time(end), der.sequence(entry))
    return der.sequence(body, algorithm, bytes([0x03, 0x03, 0x00, 0x30, 0x00]))


def test_with_a_revoked_certificate_it_is_refused(sample: Sample) -> None:
    # Only Intel can sign such a list. It is believed before its signature is looked at: a doubt is a refusal.
    chain = parse_quote(sample.quote).chain
    fields = json.loads(sample.collateral.text)
    for field, revoked in (("pck_crl", chain.leaf), ("root_ca_crl", chain.authority)):
        crl = revoking(revoked, sample.at - timedelta(hours=1)).hex()
        collateral = Collateral.from_json(json.dumps(fields | {field: crl}))
        with pytest.raises(RevokedError, match=f"serial number {revoked.serial_number:x}"):
            sample._replace(collateral=collateral).verifier().verify(sample.quote)


def test_a_revocation_list_that_intel_did_not_sign_is_refused(sample: Sample) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = parse_quote(sample.quote).chain
    now = sample.at - timedelta(hours=1)
    crl = issue_revocation_list(chain.leaf.issuer, key, issued=now, validity=timedelta(days=30))
    fields = json.loads(sample.collateral.text) | {"pck_crl": crl.hex()}
    with pytest.raises(CollateralSignatureInvalidError, match="revocation list of the PCK CA"):
        sample._replace(collateral=Collateral.from_json(json.dumps(fields))).verifier().verify(sample.quote)


def test_intels_collateral_is_signed_in_every_part(sample: Sample) -> None:
    check_signatures(sample.collateral)
    assert older_parts(sample.collateral, sample.collateral) == []
    assert str(PlatformKey.of(parse_quote(sample.quote))) in {
        "sgx-00a067110000-processor",
        "tdx-b0c06f000000-platform",
    }


def test_intels_root_is_the_built_in_one(shared_vectors: Path, tmp_path: Path) -> None:
    chain = Path(shared_vectors / "quotes" / "sgx_quote_collateral.json").read_bytes()
    root = Collateral.from_json(chain).tcb_chain[-1]
    assert TrustRoot.from_certificate(root) == TrustRoot.intel()


def test_the_default_policy_refuses_a_tcb_that_is_not_up_to_date(shared_vectors: Path) -> None:
    evidence = load(shared_vectors, "sgx")
    mrenclave = evidence.quote[112:144]

    def policy(tcb: TcbCurrent | None) -> AppraisalPolicy:
        return AppraisalPolicy(
            root=TrustRoot.intel(),
            collateral=FixedCollateral(evidence.collateral),
            platform=PlatformKind("sgx"),
            enclaves=MrEnclave(mrenclave),
            tcb=tcb,
            clock=evidence.at.timestamp,
        )

    report_data = b"Hello, world!".ljust(64, b"\0")
    with pytest.raises(EvidenceRefusedError, match=r"ConfigurationAndSWHardeningNeeded \(INTEL-SA-00289"):
        policy(None).appraise(evidence.quote, report_data=report_data)
    accepted = frozenset({"ConfigurationAndSWHardeningNeeded"})
    assert policy(TcbCurrent(accepted)).appraise(evidence.quote, report_data=report_data).mrenclave == mrenclave
    with pytest.raises(EvidenceRefusedError, match="INTEL-SA-00289"):
        policy(TcbCurrent(accepted, rejected_advisories=frozenset({"INTEL-SA-00289"}))).appraise(
            evidence.quote, report_data=report_data
        )


def test_a_policy_for_sgx_refuses_a_trust_domain(shared_vectors: Path) -> None:
    evidence = load(shared_vectors, "tdx")
    policy = AppraisalPolicy(
        root=TrustRoot.intel(),
        collateral=FixedCollateral(evidence.collateral),
        platform=PlatformKind("sgx"),
        enclaves=MrEnclave(bytes(32)),
        clock=evidence.at.timestamp,
    )
    appraisal = policy.appraise_with_steps(evidence.quote, report_data=None)
    assert isinstance(appraisal.error, EvidenceRefusedError)
    assert any("tdx" in reason for reason in appraisal.error.reasons)
    assert any("MRENCLAVE is missing" in reason for reason in appraisal.error.reasons)


def test_a_simulated_platform_cannot_pass_as_intels() -> None:
    platform = make_platform(root_common_name="Intel SGX Root CA")
    at = datetime.fromisoformat("2026-08-01T12:00:00Z")
    collateral = FixedCollateral(Collateral.from_json(platform.collateral_json(now=at)))
    verifier = Verifier(TrustRoot.intel(), collateral, clock=at.timestamp)
    from evidence_corpus import ENCLAVE

    with pytest.raises(UntrustedRootError):
        verifier.verify(platform.quote(ENCLAVE, bytes(64)))
    assert PlatformProfile().root_common_name.startswith("SIMULATED NO PROTECTION")
