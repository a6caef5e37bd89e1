"""The verifier against a synthetic corpus: every kind of bad evidence has its own error."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA, collateral_with, fields, make_platform, verifier

from sealserve.errors import EvidenceError
from sealserve.evidence import (
    Collateral,
    FixedCollateral,
    PlatformProfile,
    SimulatedEnclave,
    SimulatedPlatform,
    TrustRoot,
    Verifier,
)
from sealserve.evidence.errors import (
    CertificateExpiredError,
    CollateralExpiredError,
    CollateralMalformedError,
    CollateralMismatchError,
    CollateralNotYetValidError,
    CollateralRevokedError,
    CollateralSignatureInvalidError,
    CollateralUntrustedError,
    DebugEnclaveError,
    QuoteMalformedError,
    QuotingEnclaveRefusedError,
    RevokedError,
    SignatureInvalidError,
    TcbRevokedError,
    UntrustedRootError,
    UnverifiableEvidenceError,
)
from sealserve.evidence.simulated.certificates import issue_revocation_list

STATUSES = [
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]


def test_a_good_quote_says_who_it_is(platform: SimulatedPlatform, quote: bytes) -> None:
    evidence = verifier(platform).verify(quote)
    assert evidence.simulated
    assert (evidence.mrenclave, evidence.mrsigner) == (ENCLAVE.mrenclave, ENCLAVE.mrsigner)
    assert (evidence.isv_prod_id, evidence.isv_svn) == (7, 3)
    assert evidence.report_data == REPORT_DATA
    assert evidence.ppid == platform.profile.ppid
    assert evidence.fmspc == platform.profile.fmspc
    assert evidence.tcb_evaluation_data_number == 20
    assert evidence.collateral_expires == NOW - timedelta(minutes=5) + timedelta(days=30)
    assert evidence.verified_at == NOW
    assert json.loads(json.dumps(evidence.as_dict()))["mrenclave"] == ENCLAVE.mrenclave.hex()


@pytest.mark.parametrize("status", STATUSES)
def test_each_tcb_status_is_told(status: str) -> None:
    platform = make_platform(tcb_status=status, advisory_ids=("SIMULATED-SA-00003",))
    evidence = verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))
    assert evidence.tcb_status == status
    assert evidence.advisory_ids == ("SIMULATED-SA-00003",)


def test_an_outdated_quoting_enclave_is_told() -> None:
    platform = make_platform(qe_tcb_status="OutOfDate", qe_advisory_ids=("SIMULATED-SA-00004",))
    evidence = verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))
    assert evidence.qe_tcb_status == "OutOfDate"
    assert evidence.tcb_status == "OutOfDate"
    assert evidence.advisory_ids == ("SIMULATED-SA-00004",)


@pytest.mark.parametrize("status", ["ConfigurationNeeded", "OutOfDateConfigurationNeeded", "SWHardeningNeeded"])
def test_a_status_that_no_quoting_enclave_has_is_not_taken_for_up_to_date(status: str) -> None:
    platform = make_platform(qe_tcb_status=status)
    with pytest.raises(EvidenceError) as caught:
        verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))
    assert isinstance(caught.value, UnverifiableEvidenceError | QuotingEnclaveRefusedError)


@pytest.mark.parametrize("part", ["tcb_status", "qe_tcb_status"])
def test_a_revoked_tcb_is_refused(part: str) -> None:
    platform = make_platform(**{part: "Revoked"})
    with pytest.raises(TcbRevokedError):
        verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))


def test_a_debug_enclave_is_refused(platform: SimulatedPlatform) -> None:
    enclave = SimulatedEnclave(ENCLAVE.mrenclave, ENCLAVE.mrsigner, 7, 3, debug=True)
    with pytest.raises(DebugEnclaveError, match="debug mode"):
        verifier(platform).verify(platform.quote(enclave, REPORT_DATA))


def test_a_revoked_machine_is_refused() -> None:
    platform = make_platform(revoked_pck=True)
    with pytest.raises(RevokedError, match="PCK Certificate"):
        verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))


def test_a_revoked_certification_authority_is_refused() -> None:
    platform = make_platform(revoked_platform_ca=True)
    with pytest.raises(RevokedError, match="PCK Platform CA"):
        verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))


def test_a_revoked_signer_of_tcb_info_is_refused(platform: SimulatedPlatform, quote: bytes) -> None:
    authority = platform.authority
    crl = issue_revocation_list(
        authority.root.subject,
        authority.root_key,
        issued=NOW,
        validity=timedelta(days=30),
        revoked=[authority.tcb_signing.serial_number],
    )
    with pytest.raises(CollateralRevokedError, match="TCB Signing"):
        verifier(platform, collateral_with(platform, root_ca_crl=crl.hex())).verify(quote)


def test_a_quote_from_under_another_root_is_refused(
    platform: SimulatedPlatform, other_platform: SimulatedPlatform
) -> None:
    with pytest.raises(UntrustedRootError, match="certificate chain of the quote"):
        verifier(platform).verify(other_platform.quote(ENCLAVE, REPORT_DATA))


def test_collateral_from_under_another_root_is_refused(
    platform: SimulatedPlatform, other_platform: SimulatedPlatform, quote: bytes
) -> None:
    other = Collateral.from_json(other_platform.collateral_json(now=NOW))
    with pytest.raises(CollateralUntrustedError, match="TCB info"):
        verifier(platform, other).verify(quote)


def test_a_quote_with_a_good_root_glued_to_a_foreign_chain_is_refused(
    platform: SimulatedPlatform, other_platform: SimulatedPlatform
) -> None:
    foreign = other_platform.machine
    chain = foreign.chain_pem.replace(other_platform.root_pem.encode(), platform.root_pem.encode())
    assert chain.endswith(platform.root_pem.encode())
    forged = type(foreign)(pck_key=foreign.pck_key, attestation_key=foreign.attestation_key, chain_pem=chain)
    with pytest.raises(EvidenceError) as caught:
        verifier(platform).verify(forged.quote(ENCLAVE, REPORT_DATA))
    assert isinstance(caught.value, CollateralMismatchError | SignatureInvalidError | UntrustedRootError)


def test_a_machine_that_lends_its_certificate_to_another_key_is_refused(
    platform: SimulatedPlatform, other_platform: SimulatedPlatform
) -> None:
    forged = type(platform.machine)(
        pck_key=other_platform.machine.pck_key,
        attestation_key=platform.machine.attestation_key,
        chain_pem=platform.machine.chain_pem,
    )
    with pytest.raises(SignatureInvalidError, match="did not sign the quoting enclave's report"):
        verifier(platform).verify(forged.quote(ENCLAVE, REPORT_DATA))


def test_an_attestation_key_that_nobody_vouches_for_is_refused(
    platform: SimulatedPlatform, other_platform: SimulatedPlatform, quote: bytes
) -> None:
    # Sign the same report by another key, and put that key where the good one was.
    other = other_platform.quote(ENCLAVE, REPORT_DATA)
    forged = quote[:436] + other[436:564] + quote[564:]
    with pytest.raises(SignatureInvalidError, match="vouches for"):
        verifier(platform).verify(forged)


def test_another_quoting_enclave_is_refused() -> None:
    platform = make_platform(qe_mrsigner=bytes(32))
    with pytest.raises(QuotingEnclaveRefusedError):
        verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))


@pytest.mark.parametrize(
    "profile",
    [{"collateral_fmspc": b"abcdef"}, {"tcb_info_id": "TDX"}, {"qe_identity_id": "TD_QE"}],
    ids=["other-kind-of-machine", "tcb-info-of-tdx", "qe-identity-of-tdx"],
)
def test_mismatched_collateral_is_refused(profile: dict[str, bytes]) -> None:
    platform = make_platform(**profile)
    with pytest.raises(CollateralMismatchError):
        verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "root_ca_crl", "pck_crl"])
def test_each_expired_part_of_the_collateral_is_refused(platform: SimulatedPlatform, quote: bytes, part: str) -> None:
    old = fields(platform, now=NOW - timedelta(days=40), root_crl_validity=timedelta(days=30))
    changes = {name: value for name, value in old.items() if name in {part, f"{part}_signature"}}
    with pytest.raises(CollateralExpiredError, match="expired at 2026-07"):
        verifier(platform, collateral_with(platform, **changes)).verify(quote)


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "root_ca_crl", "pck_crl"])
def test_each_part_of_the_collateral_from_the_future_is_refused(
    platform: SimulatedPlatform, quote: bytes, part: str
) -> None:
    early = fields(platform, now=NOW + timedelta(days=1))
    changes = {name: value for name, value in early.items() if name in {part, f"{part}_signature"}}
    with pytest.raises(CollateralNotYetValidError, match="not valid before 2026-08-02"):
        verifier(platform, collateral_with(platform, **changes)).verify(quote)


def test_an_expired_machine_certificate_is_refused() -> None:
    platform = SimulatedPlatform.generate(PlatformProfile(), now=NOW, pck_validity=timedelta(days=1))
    with pytest.raises(CertificateExpiredError, match="PCK certificate expired"):
        verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA), now=(NOW + timedelta(days=2)).timestamp())


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_a_changed_endorsement_is_refused(platform: SimulatedPlatform, quote: bytes, part: str) -> None:
    document = json.loads(fields(platform)[part])
    document["tcbEvaluationDataNumber"] += 1
    changed = collateral_with(platform, **{part: json.dumps(document)})
    with pytest.raises(CollateralSignatureInvalidError, match="signature"):
        verifier(platform, changed).verify(quote)


@pytest.mark.parametrize("part", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_an_endorsement_signed_by_a_mere_machine_is_refused(
    platform: SimulatedPlatform, quote: bytes, part: str
) -> None:
    chain = platform.machine.chain_pem.decode()
    with pytest.raises(EvidenceError) as caught:
        verifier(platform, collateral_with(platform, **{part: chain})).verify(quote)
    assert isinstance(caught.value, CollateralUntrustedError | CollateralSignatureInvalidError)


@pytest.mark.parametrize("part", ["root_ca_crl", "pck_crl"])
def test_a_revocation_list_of_another_authority_is_refused(
    platform: SimulatedPlatform, other_platform: SimulatedPlatform, quote: bytes, part: str
) -> None:
    # Same names, other keys: only the signature tells.
    changed = collateral_with(platform, **{part: fields(other_platform)[part]})
    with pytest.raises(CollateralSignatureInvalidError, match="revocation list"):
        verifier(platform, changed).verify(quote)


def test_swapped_revocation_lists_are_refused(platform: SimulatedPlatform, quote: bytes) -> None:
    found = fields(platform)
    swapped = collateral_with(platform, root_ca_crl=found["pck_crl"], pck_crl=found["root_ca_crl"])
    with pytest.raises(CollateralMismatchError, match="revocation list"):
        verifier(platform, swapped).verify(quote)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("root_ca_crl", ""),
        ("root_ca_crl", "00ff"),
        ("pck_crl", "zz"),
        ("tcb_info", "{"),
        ("tcb_info", "[]"),
        ("qe_identity", "{}"),
        (
            "qe_identity",
            '{"id":"QE","tcbEvaluationDataNumber":1,"issueDate":"0001-01-01T00:00:00+14:00","nextUpdate":""}',
        ),
        ("tcb_info_signature", "00"),
        ("qe_identity_signature", ""),
        ("tcb_info_issuer_chain", "junk"),
        ("pck_crl_issuer_chain", ""),
    ],
)
def test_collateral_that_cannot_be_read_is_malformed(platform: SimulatedPlatform, part: str, value: str) -> None:
    with pytest.raises(CollateralMalformedError, match="(?i)" + part.replace("_", ".")):
        collateral_with(platform, **{part: value})


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"tcb_info": 5}', b"1" * 2_000_000])
def test_what_is_no_collateral_is_malformed(text: bytes) -> None:
    with pytest.raises(CollateralMalformedError):
        Collateral.from_json(text)


def test_a_flipped_bit_anywhere_is_refused(platform: SimulatedPlatform, quote: bytes) -> None:
    judge = verifier(platform)
    for position in range(1, len(quote), 4):
        changed = bytearray(quote)
        changed[position] ^= 1 << (position % 7)
        with pytest.raises(EvidenceError):
            judge.verify(bytes(changed))


def test_an_oversized_quote_is_malformed(platform: SimulatedPlatform, quote: bytes) -> None:
    with pytest.raises(QuoteMalformedError, match="more than"):
        verifier(platform).verify(quote + bytes(40_000))


@pytest.mark.parametrize("now", [-1.0, float("nan"), float("inf"), 1e30])
def test_an_impossible_time_is_refused(platform: SimulatedPlatform, quote: bytes, now: float) -> None:
    with pytest.raises(EvidenceError, match="at this time"):
        verifier(platform).verify(quote, now=now)


def test_a_panic_of_the_library_is_a_refusal(
    platform: SimulatedPlatform, quote: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):  # the name that Rust bindings give it
        pass

    class Engine:
        def verify_with_policy(self, *_: object) -> None:
            raise PanicException

    judge = verifier(platform)
    monkeypatch.setattr(judge, "_engine", Engine())
    with pytest.raises(UnverifiableEvidenceError):
        judge.verify(quote)


def test_an_unknown_reason_of_the_library_is_a_refusal(
    platform: SimulatedPlatform, quote: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Engine:
        def verify_with_policy(self, *_: object) -> None:
            raise ValueError("Verification failed: something new")

    judge = verifier(platform)
    monkeypatch.setattr(judge, "_engine", Engine())
    with pytest.raises(UnverifiableEvidenceError, match="something new"):
        judge.verify(quote)


def test_a_library_that_read_another_enclave_is_not_believed(
    platform: SimulatedPlatform, quote: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = verifier(platform)
    genuine = judge._engine
    other = platform.quote(SimulatedEnclave(bytes(32), bytes(32)), REPORT_DATA)

    class Engine:
        def verify_with_policy(self, _: bytes, *arguments: object) -> object:
            return genuine.verify_with_policy(other, *arguments)

    monkeypatch.setattr(judge, "_engine", Engine())
    with pytest.raises(UnverifiableEvidenceError, match="our own parser"):
        judge.verify(quote)


def test_collateral_for_newer_platforms_only_is_refused(platform: SimulatedPlatform, quote: bytes) -> None:
    found = fields(platform)
    document = json.loads(found["tcb_info"])
    for level in document["tcbLevels"]:
        level["tcb"]["pcesvn"] = 99
    from sealserve.evidence.simulated.signing import sign_raw

    text = json.dumps(document)
    signature = sign_raw(platform.authority.tcb_signing_key, text.encode()).hex()
    changed = collateral_with(platform, tcb_info=text, tcb_info_signature=signature)
    with pytest.raises(CollateralMismatchError, match="older than every level"):
        verifier(platform, changed).verify(quote)


def test_a_verifier_uses_fresh_collateral_when_its_source_has_it(platform: SimulatedPlatform, quote: bytes) -> None:
    class Source(FixedCollateral):
        pass

    source = Source(Collateral.from_json(platform.collateral_json(now=NOW - timedelta(days=40))))
    judge = Verifier(TrustRoot.from_der(platform.root_der), source, clock=NOW.timestamp)
    with pytest.raises(CollateralExpiredError):
        judge.verify(quote)
    source._collateral = Collateral.from_json(platform.collateral_json(now=NOW))
    assert judge.verify(quote).tcb_status == "UpToDate"
