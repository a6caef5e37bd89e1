"""Policies: what they refuse, that they say all of why, and that a careless one cannot be loaded."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA, make_platform, policy

from sealserve.errors import ConfigurationError, InputError
from sealserve.evidence import (
    AppraisalPolicy,
    Collateral,
    EnclaveReference,
    FixedCollateral,
    PolicyDocument,
    SimulatedEnclave,
    SimulatedPlatform,
    TrustRoot,
)
from sealserve.evidence.errors import (
    CollateralExpiredError,
    EvidenceBindingError,
    EvidenceRefusedError,
    MachineRefusedError,
    MeasurementRefusedError,
    SecurityVersionRefusedError,
    SimulatedEvidenceRefusedError,
    TcbRefusedError,
)
from sealserve.evidence.policy import AllOf, AnyOf, MrEnclave, MrSigner, OneOfMachines, PlatformKind, TcbCurrent
from sealserve.evidence.simulated import authority as authority_module
from sealserve.evidence.simulated import certificates as certificates_module
from sealserve.evidence.simulated import machine as machine_module
from sealserve.evidence.verified import VerifiedEvidence

MRENCLAVE = ENCLAVE.mrenclave.hex()
MRSIGNER = ENCLAVE.mrsigner.hex()
MRTD = "ab" * 48


def write(directory: Path, platform: SimulatedPlatform, text: str = "") -> Path:
    """A policy file beside the platform's public files; ``text`` replaces or adds settings."""
    (directory / "root.pem").write_text(platform.root_pem)
    (directory / "collateral.json").write_text(platform.collateral_json(now=NOW))
    settings = {
        "tee": "tee: simulated",
        "trust_root": "trust_root: root.pem",
        "collateral": "collateral: collateral.json",
        "enclaves": f"enclaves:\n  - mrenclave: {MRENCLAVE}",
        "insecure_accept_simulated_platform": "insecure_accept_simulated_platform: true",
    }
    for block in filter(None, text.split(";")):
        name = block.split(":")[0].strip()
        settings[name] = "" if block.strip() == f"{name}:-" else block.strip()
    path = directory / "policy.yaml"
    path.write_text("\n".join(filter(None, settings.values())) + "\n")
    return path


def reasons(policy: AppraisalPolicy, quote: bytes) -> tuple[str, ...]:
    with pytest.raises(EvidenceRefusedError) as caught:
        policy.appraise(quote, report_data=REPORT_DATA)
    return caught.value.reasons


# --- appraising ---------------------------------------------------------------------------------------------------


def test_a_policy_file_accepts_what_it_names(tmp_path: Path, platform: SimulatedPlatform, quote: bytes) -> None:
    loaded = AppraisalPolicy.load(write(tmp_path, platform), clock=NOW.timestamp)
    assert loaded.appraise(quote, report_data=REPORT_DATA).mrenclave == ENCLAVE.mrenclave


def test_another_measurement_is_refused(platform: SimulatedPlatform) -> None:
    quote = platform.quote(SimulatedEnclave(bytes(32), ENCLAVE.mrsigner), REPORT_DATA)
    (reason,) = reasons(policy(platform), quote)
    assert reason == f"MRENCLAVE is {bytes(32).hex()}, not {MRENCLAVE}"


def test_a_security_version_is_a_minimum(platform: SimulatedPlatform) -> None:
    signer = policy(platform, MrSigner(ENCLAVE.mrsigner, isv_prod_id=7, minimum_isv_svn=3))
    for svn in (3, 4, 65535):
        quote = platform.quote(SimulatedEnclave(bytes(32), ENCLAVE.mrsigner, 7, svn), REPORT_DATA)
        assert signer.appraise(quote, report_data=REPORT_DATA).isv_svn == svn
    low = platform.quote(SimulatedEnclave(bytes(32), ENCLAVE.mrsigner, 7, 2), REPORT_DATA)
    assert reasons(signer, low) == ("ISV_SVN is 2, less than 3",)


def test_another_product_of_the_same_signer_is_refused(platform: SimulatedPlatform) -> None:
    signer = policy(platform, MrSigner(ENCLAVE.mrsigner, isv_prod_id=7, minimum_isv_svn=3))
    other = platform.quote(SimulatedEnclave(bytes(32), ENCLAVE.mrsigner, 8, 9), REPORT_DATA)
    assert reasons(signer, other) == ("ISV_PROD_ID is 8, not 7",)


@pytest.mark.parametrize("wrong", [bytes(64), REPORT_DATA[:32], b"", REPORT_DATA + b"\0", REPORT_DATA[:-1] + b"\xff"])
def test_wrong_report_data_is_refused(platform: SimulatedPlatform, quote: bytes, wrong: bytes) -> None:
    with pytest.raises(EvidenceBindingError, match="another key or another request"):
        policy(platform).appraise(quote, report_data=wrong)


def test_the_time_can_be_given(platform: SimulatedPlatform, quote: bytes) -> None:
    later = (NOW + timedelta(days=60)).timestamp()
    with pytest.raises(CollateralExpiredError):
        policy(platform).appraise(quote, report_data=REPORT_DATA, now=later)
    assert policy(platform, at=NOW + timedelta(days=60)).appraise(quote, report_data=REPORT_DATA, now=NOW.timestamp())


@pytest.mark.parametrize(
    "status", ["SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"]
)
def test_only_an_up_to_date_tcb_is_accepted_by_default(status: str) -> None:
    platform = make_platform(tcb_status=status, advisory_ids=("SIMULATED-SA-00003",))
    quote = platform.quote(ENCLAVE, REPORT_DATA)
    (reason,) = reasons(policy(platform), quote)
    assert reason == f"the TCB status is {status} (SIMULATED-SA-00003); accepted: UpToDate"
    assert policy(platform, tcb=TcbCurrent(frozenset({status}))).appraise(quote, report_data=REPORT_DATA)


def test_up_to_date_is_accepted_whatever_else_is(platform: SimulatedPlatform, quote: bytes) -> None:
    assert policy(platform, tcb=TcbCurrent(frozenset({"SWHardeningNeeded"}))).appraise(quote, report_data=REPORT_DATA)


def test_a_rejected_advisory_is_refused() -> None:
    platform = make_platform(tcb_status="SWHardeningNeeded", advisory_ids=("INTEL-SA-1", "INTEL-DOC-2"))
    tcb = TcbCurrent(frozenset({"SWHardeningNeeded"}), rejected_advisories=frozenset({"INTEL-DOC-2"}))
    assert reasons(policy(platform, tcb=tcb), platform.quote(ENCLAVE, REPORT_DATA)) == (
        "the platform is affected by INTEL-DOC-2",
    )


def test_collateral_that_does_not_know_the_latest_attacks_is_refused(platform: SimulatedPlatform, quote: bytes) -> None:
    assert policy(platform, tcb=TcbCurrent(minimum_evaluation_data_number=20)).appraise(quote, report_data=REPORT_DATA)
    stricter = policy(platform, tcb=TcbCurrent(minimum_evaluation_data_number=21))
    assert reasons(stricter, quote) == ("the TCB evaluation data number is 20, less than 21",)


def test_an_unknown_machine_is_refused(platform: SimulatedPlatform, quote: bytes) -> None:
    known = OneOfMachines(frozenset({platform.profile.ppid, bytes(16)}))
    assert policy(platform, machines=known).appraise(quote, report_data=REPORT_DATA)
    (reason,) = reasons(policy(platform, machines=OneOfMachines(frozenset({bytes(16)}))), quote)
    assert platform.profile.ppid.hex() in reason


def test_each_cause_of_a_refusal_has_a_type_of_its_own() -> None:
    good, outdated = make_platform(), make_platform(tcb_status="OutOfDate")
    stranger = SimulatedEnclave(bytes(32), bytes(32), 7, 3)
    signer = MrSigner(ENCLAVE.mrsigner, 7, minimum_isv_svn=4)
    both = AnyOf([MrEnclave(bytes(32)), signer])
    other_machine = OneOfMachines(frozenset({bytes(16)}))
    cases: list[tuple[type[EvidenceRefusedError], SimulatedPlatform, SimulatedEnclave, dict[str, Any]]] = [
        (MeasurementRefusedError, good, stranger, {}),
        (MeasurementRefusedError, good, stranger, {"enclaves": MrSigner(ENCLAVE.mrsigner, 7, 1)}),
        (SecurityVersionRefusedError, good, ENCLAVE, {"enclaves": signer}),
        (SecurityVersionRefusedError, good, ENCLAVE, {"enclaves": both}),
        (TcbRefusedError, outdated, ENCLAVE, {}),
        (TcbRefusedError, good, ENCLAVE, {"tcb": TcbCurrent(minimum_evaluation_data_number=99)}),
        (MachineRefusedError, good, ENCLAVE, {"machines": other_machine}),
        # The gravest one counts.
        (MeasurementRefusedError, outdated, stranger, {"machines": other_machine}),
        (TcbRefusedError, outdated, ENCLAVE, {"machines": other_machine}),
    ]
    for kind, platform, enclave, settings in cases:
        with pytest.raises(EvidenceRefusedError) as caught:
            policy(platform, **settings).appraise(platform.quote(enclave, REPORT_DATA), report_data=REPORT_DATA)
        assert type(caught.value) is kind


def test_a_refusal_lists_every_reason() -> None:
    platform = make_platform(tcb_status="OutOfDate", advisory_ids=("INTEL-SA-1",))
    quote = platform.quote(SimulatedEnclave(bytes(32), bytes(32)), REPORT_DATA)
    strict = policy(
        platform,
        AllOf([MrEnclave(ENCLAVE.mrenclave), MrSigner(ENCLAVE.mrsigner, 1, 1)]),
        tcb=TcbCurrent(rejected_advisories=frozenset({"INTEL-SA-1"}), minimum_evaluation_data_number=99),
        machines=OneOfMachines(frozenset({bytes(16)})),
    )
    found = reasons(strict, quote)
    assert len(found) == 8
    for part in ("TCB status", "affected by", "evaluation data number", "MRENCLAVE", "MRSIGNER", "PROD_ID", "SVN"):
        assert any(part in reason for reason in found), part
    assert any("machine" in reason for reason in found)


def test_a_report_has_every_step_in_order(platform: SimulatedPlatform, quote: bytes) -> None:
    appraisal = policy(platform).appraise_with_steps(quote, report_data=REPORT_DATA)
    assert [step.name for step in appraisal.steps] == [
        *("quote", "root", "collateral", "revocation", "debug", "signature", "binding"),
        *("platform", "tcb", "measurement", "machine", "result"),
    ]
    assert all(step.ok for step in appraisal.steps)
    assert appraisal.accepted
    assert appraisal.as_dict()["evidence"]["mrenclave"] == MRENCLAVE


def test_a_report_of_a_refusal_says_what_was_not_reached(platform: SimulatedPlatform, quote: bytes) -> None:
    late = (NOW + timedelta(days=60)).timestamp()
    appraisal = policy(platform).appraise_with_steps(quote, report_data=REPORT_DATA, now=late)
    outcomes = {step.name: step.outcome for step in appraisal.steps}
    assert not appraisal.accepted
    assert appraisal.evidence is None
    assert outcomes["root"] == "ok"
    assert outcomes["collateral"] == "failed"
    assert outcomes["measurement"] == "skipped"
    assert outcomes["result"] == "failed"
    assert appraisal.as_dict()["refusal"]["reason"] == "collateral-expired"


def test_genuine_evidence_that_is_refused_is_still_shown(platform: SimulatedPlatform, quote: bytes) -> None:
    appraisal = policy(platform, MrEnclave(bytes(32))).appraise_with_steps(quote, report_data=bytes(64))
    outcomes = {step.name: step.outcome for step in appraisal.steps}
    assert appraisal.evidence is not None
    assert (outcomes["binding"], outcomes["measurement"], outcomes["machine"]) == ("failed", "failed", "ok")
    assert isinstance(appraisal.error, EvidenceBindingError)


def test_a_report_without_report_data_does_not_claim_the_binding(platform: SimulatedPlatform, quote: bytes) -> None:
    appraisal = policy(platform).appraise_with_steps(quote, report_data=None)
    steps = {step.name: step for step in appraisal.steps}
    assert steps["binding"].outcome == "skipped"
    assert "not known for whom" in steps["result"].detail


def test_any_of_accepts_each_and_lists_all(platform: SimulatedPlatform, quote: bytes) -> None:
    either = AnyOf([MrEnclave(bytes(32)), MrSigner(ENCLAVE.mrsigner, 7, 1)])
    assert policy(platform, either).appraise(quote, report_data=REPORT_DATA)
    neither = AnyOf([MrEnclave(bytes(32)), MrSigner(bytes(32), 7, 1)])
    assert len(reasons(policy(platform, neither), quote)) == 2


def test_the_permission_for_simulated_platforms_is_logged_at_load_and_at_every_use(
    platform: SimulatedPlatform, quote: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = policy(platform)
        loaded.appraise(quote, report_data=REPORT_DATA)
        loaded.appraise(quote, report_data=REPORT_DATA)
    assert [record.getMessage() for record in caplog.records] == [
        "insecure-policy-loaded",
        "insecure-simulated-platform-accepted",
        "insecure-simulated-platform-accepted",
    ]


def test_an_insecure_tcb_status_is_logged_at_load_and_at_every_use(caplog: pytest.LogCaptureFixture) -> None:
    platform = make_platform(tcb_status="OutOfDate")
    with caplog.at_level(logging.WARNING):
        loaded = policy(platform, tcb=TcbCurrent(insecure_statuses=frozenset({"OutOfDate"})))
        loaded.appraise(platform.quote(ENCLAVE, REPORT_DATA), report_data=REPORT_DATA)
    assert [record.getMessage() for record in caplog.records].count("insecure-policy-loaded") == 2
    assert "insecure-tcb-status-accepted" in [record.getMessage() for record in caplog.records]


# --- simulated platforms ------------------------------------------------------------------------------------------


def test_a_requirement_for_sgx_refuses_a_simulated_platform(platform: SimulatedPlatform, quote: bytes) -> None:
    evidence: VerifiedEvidence = policy(platform).appraise(quote, report_data=REPORT_DATA)
    for kind in (PlatformKind("sgx"), PlatformKind("sgx", True), PlatformKind("simulated")):
        with pytest.raises(SimulatedEvidenceRefusedError):
            kind.verify(evidence)


def test_evidence_marked_as_simulated_is_refused_even_under_a_root_that_is_not() -> None:
    platform = make_platform(root_common_name="Intel SGX Root CA")
    root = TrustRoot.from_der(platform.root_der)
    # The organisation still says so, and so do the certificates below.
    assert root.simulated
    disguised = TrustRoot(root.fingerprint, root.der, root.name, simulated=False)
    sgx = AppraisalPolicy(
        root=disguised,
        collateral=FixedCollateral(Collateral.from_json(platform.collateral_json(now=NOW))),
        platform=PlatformKind("sgx"),
        enclaves=MrEnclave(ENCLAVE.mrenclave),
        clock=NOW.timestamp,
    )
    with pytest.raises(SimulatedEvidenceRefusedError, match="protects nothing"):
        sgx.appraise(platform.quote(ENCLAVE, REPORT_DATA), report_data=REPORT_DATA)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("insecure_accept_simulated_platform:-", "policy.yaml:1: insecure_accept_simulated_platform: must be true"),
        ("insecure_accept_simulated_platform: false", ":6: insecure_accept_simulated_platform: must be true"),
        ("tee: sgx", ":6: insecure_accept_simulated_platform: must not be true for tee: sgx"),
        ("tee: sgx;insecure_accept_simulated_platform:-", "is a simulated platform's"),
        ("trust_root:-", ":1: trust_root: is needed for tee: simulated"),
    ],
)
def test_a_simulated_root_needs_a_policy_that_says_so(
    tmp_path: Path, platform: SimulatedPlatform, change: str, why: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AppraisalPolicy.load(write(tmp_path, platform, change))
    assert why in caught.value.message


def test_a_root_of_the_operators_own_is_logged_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A platform of somebody's own authority, whose names are Intel's and do not say that anything is simulated.
    for module in (authority_module, certificates_module, machine_module):
        monkeypatch.setattr(module, "WARNING", "Intel Corporation")
    platform = make_platform(root_common_name="Intel SGX Root CA")
    path = write(tmp_path, platform, "tee: sgx; insecure_accept_simulated_platform:-")
    with caplog.at_level(logging.WARNING, "sealserve"):
        loaded = AppraisalPolicy.load(path, clock=NOW.timestamp)
    assert caplog.messages == ["policy-with-own-root-loaded"]
    quote = platform.quote(ENCLAVE, REPORT_DATA)
    appraisal = loaded.appraise_with_steps(quote, report_data=REPORT_DATA)
    assert appraisal.accepted
    details = {step.name: step.detail for step in appraisal.steps}
    assert details["root"].startswith("Intel SGX Root CA, which is not Intel's (SHA-256 ")
    assert details["platform"] == "SGX, under a root of the operator's own, which is not Intel's"
    assert appraisal.as_dict()["evidence"]["own_root"] is True


# --- careless policies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("enclaves:-", ":1: enclaves: is missing (the enclaves that are accepted"),
        ("enclaves: []", ":4: enclaves: must name at least one enclave"),
        ("enclaves: [{}]", ":4: enclaves[0]: names no measurement"),
        ("enclaves: [{isv_prod_id: 1}]", ":4: enclaves[0]: names no measurement"),
        ("enclaves: [{mrenclave: }]", ":4: enclaves[0].mrenclave: is empty"),
        (
            f"enclaves: [{{mrenclave: {MRENCLAVE}, mrsigner: }}]",
            ":4: enclaves[0].mrsigner: is empty; give it a value, or remove the line",
        ),
        ("enclaves: [{mrenclave: ''}]", ":4: enclaves[0].mrenclave: must be 32 bytes in hexadecimal"),
        ("enclaves: [{mrenclave: abcd}]", ":4: enclaves[0].mrenclave: must be 32 bytes in hexadecimal"),
        ("enclaves: [{mrenclave: 1234}]", ":4: enclaves[0].mrenclave: must be put in quotes"),
        (f"enclaves: [{{mrsigner: {MRSIGNER}}}]", ":4: enclaves[0]: needs isv_prod_id and minimum_isv_svn"),
        (f"enclaves: [{{mrenclave: {MRENCLAVE}, minimum_isv_svn: 1}}]", "without mrsigner"),
        (f"enclaves: [{{mrenclav: {MRENCLAVE}}}]", ":4: enclaves[0].mrenclav: is not a known setting; did you mean mr"),
        ("tcb_statuses: [Fine]", ":7: tcb_statuses[0]: must be 'UpToDate'"),
        ("tcb_statuses: [OutOfDate]", ":7: tcb_statuses: OutOfDate is not safe"),
        ("tcb_statuses: [Revoked]", ":7: tcb_statuses[0]: must be"),
        ("machines: ['00']", ":7: machines[0]: must be 16 bytes"),
        ("insecure_accept_debug: true", ":7: insecure_accept_debug: cannot be true"),
        ("accept_debug: true", ":7: accept_debug: is not a known setting; did you mean insecure_accept_debug?"),
        ("collateral:-", ":1: collateral: is missing"),
        ("tee:-", ": tee: is missing"),
        ("tee: sev", ":1: tee: must be 'sgx', 'tdx' or 'simulated'"),
        ("tee: tdx", ":4: enclaves: is not for tee: tdx, which has trust_domains"),
        ("tee: tdx", ":1: trust_domains: is missing (the trust domains that are accepted"),
        (f"trust_domains: [{{mrtd: {MRTD}}}]", ":7: trust_domains: is not for tee: simulated, which has enclaves"),
        ("minimum_tcb_evaluation_data_number: -1", ":7: minimum_tcb_evaluation_data_number: must be at least 0"),
    ],
)
def test_a_careless_policy_is_an_error_that_names_the_place(
    tmp_path: Path, platform: SimulatedPlatform, change: str, why: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AppraisalPolicy.load(write(tmp_path, platform, change))
    assert why in caught.value.message, caught.value.message


def test_an_empty_policy_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("")
    with pytest.raises(ConfigurationError, match=r"policy\.yaml:1: enclaves: is missing"):
        AppraisalPolicy.load(path)


def test_a_missing_file_is_named(tmp_path: Path, platform: SimulatedPlatform) -> None:
    with pytest.raises(InputError, match=r"absent\.pem"):
        AppraisalPolicy.load(write(tmp_path, platform, "trust_root: absent.pem"))
    with pytest.raises(ConfigurationError, match="no certificate"):
        AppraisalPolicy.load(write(tmp_path, platform, "trust_root: collateral.json"))


def test_a_refusal_by_very_many_alternatives_stays_short(platform: SimulatedPlatform, quote: bytes) -> None:
    evidence = policy(platform).appraise(quote, report_data=REPORT_DATA)
    many: list[MrEnclave | MrSigner] = [MrEnclave(number.to_bytes(32, "big")) for number in range(1000)]
    with pytest.raises(MeasurementRefusedError) as caught:
        AnyOf(many).verify(evidence)
    assert len(caught.value.reasons) == 17
    assert "none of 1000" in caught.value.message
    outdated = MrSigner(evidence.mrsigner, evidence.isv_prod_id, evidence.isv_svn + 1)
    with pytest.raises(SecurityVersionRefusedError) as told:
        AnyOf([*many, outdated]).verify(evidence)
    assert "ISV_SVN" in told.value.message


@pytest.mark.parametrize("combine", [AllOf, AnyOf])
def test_an_empty_combination_is_an_error(combine: Any) -> None:
    with pytest.raises(ConfigurationError, match="any evidence"):
        combine([])


def test_a_policy_in_code_must_pin_a_measurement_too(platform: SimulatedPlatform) -> None:
    machines = OneOfMachines(frozenset({bytes(16)}))
    for enclaves in (machines, AnyOf([MrEnclave(bytes(32)), machines]), AllOf([machines, TcbCurrent()])):
        with pytest.raises(ConfigurationError, match="names no measurement"):
            policy(platform, enclaves)
    assert policy(platform, AllOf([machines, MrEnclave(bytes(32))]))
    with pytest.raises(ConfigurationError, match="31 bytes"):
        MrEnclave(bytes(31))


def test_a_saved_policy_is_the_same_when_it_is_loaded(
    tmp_path: Path, platform: SimulatedPlatform, quote: bytes
) -> None:
    write(tmp_path, platform)
    document = PolicyDocument(
        tee="simulated",
        trust_root=Path("root.pem"),
        collateral=Path("collateral.json"),
        enclaves=(EnclaveReference(mrsigner=ENCLAVE.mrsigner, isv_prod_id=7, minimum_isv_svn=2),),
        models=(bytes(range(32)),),
        insecure_accept_simulated_platform=True,
    )
    document.save(tmp_path / "saved.yaml")
    loaded = AppraisalPolicy.load(tmp_path / "saved.yaml", clock=NOW.timestamp)
    assert loaded.models == {bytes(range(32))}
    assert loaded.appraise(quote, report_data=REPORT_DATA)
