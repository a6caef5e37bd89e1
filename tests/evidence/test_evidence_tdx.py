"""Policies for TDX, with Intel's real quote of a trust domain."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from sealserve.errors import ConfigurationError
from sealserve.evidence import AppraisalPolicy, Collateral, SimulatedPlatform
from sealserve.evidence.errors import (
    CollateralExpiredError,
    DebugEnclaveError,
    EvidenceBindingError,
    EvidenceRefusedError,
    SignatureInvalidError,
)
from sealserve.evidence.policy import AllOf, AnyOf, MrEnclave, TrustDomainReference
from sealserve.evidence.quote import TrustDomainReport, parse_quote

MEASURED = ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config"]


class Domain(NamedTuple):
    quote: bytes
    now: float
    values: dict[str, str]
    directory: Path

    def policy(self, values: dict[str, Any] | None = None, **settings: Any) -> AppraisalPolicy:
        document = {
            "tee": "tdx",
            "collateral": "tdx_quote_collateral.json",
            "trust_domains": [self.values if values is None else values],
            **settings,
        }
        path = self.directory / "policy.yaml"
        path.write_text(yaml.safe_dump(document))
        return AppraisalPolicy.load(path, clock=lambda: self.now)

    @property
    def report_data(self) -> bytes:
        return parse_quote(self.quote).report_data


@pytest.fixture
def domain(shared_vectors: Path, tmp_path: Path) -> Domain:
    quote = (shared_vectors / "quotes" / "tdx_quote").read_bytes()
    text = (shared_vectors / "quotes" / "tdx_quote_collateral.json").read_bytes()
    (tmp_path / "tdx_quote_collateral.json").write_bytes(text)
    report = parse_quote(quote).report
    assert isinstance(report, TrustDomainReport)
    values = {
        "mrtd": report.mrtd.hex(),
        **{f"rtmr{index}": value.hex() for index, value in enumerate(report.rtmrs)},
        "mr_config_id": report.mr_config_id.hex(),
        "mr_owner": report.mr_owner.hex(),
        "mr_owner_config": report.mr_owner_config.hex(),
        "td_attributes": report.attributes.hex(),
        "xfam": report.xfam.hex(),
    }
    issued = Collateral.from_json(text).tcb_info.validity.not_before
    return Domain(quote, (issued + timedelta(hours=1)).timestamp(), values, tmp_path)


def reasons(policy: AppraisalPolicy, domain: Domain) -> tuple[str, ...]:
    with pytest.raises(EvidenceRefusedError) as caught:
        policy.appraise(domain.quote, report_data=domain.report_data)
    return caught.value.reasons


def test_a_trust_domain_with_every_reference_value_is_accepted(domain: Domain) -> None:
    evidence = domain.policy().appraise(domain.quote, report_data=domain.report_data)
    assert evidence.tee == "tdx"
    assert not evidence.own_root
    assert evidence.trust_domain is not None
    assert evidence.trust_domain.mrtd.hex() == domain.values["mrtd"]


def test_a_report_says_what_was_compared_and_what_was_not(domain: Domain) -> None:
    values = {name: domain.values[name] for name in ("mrtd", "rtmr1", "rtmr2")}
    appraisal = domain.policy(values).appraise_with_steps(domain.quote, report_data=domain.report_data)
    details = {step.name: step.detail for step in appraisal.steps}
    assert details["measurement"] == f"MRTD {values['mrtd']}, RTMR1, RTMR2; RTMR0, RTMR3 not judged"
    assert details["platform"] == "TDX"
    assert details["root"] == "Intel SGX Root CA"


@pytest.mark.parametrize("name", MEASURED)
def test_another_measurement_is_refused(domain: Domain, name: str) -> None:
    values = domain.values | {name: "ab" * 48}
    (reason,) = reasons(domain.policy(values), domain)
    shown = name.upper().replace("_", "")
    assert reason == f"{shown} is {domain.values[name]}, not {'ab' * 48}"


@pytest.mark.parametrize("name", ["td_attributes", "xfam"])
def test_other_attributes_are_refused(domain: Domain, name: str) -> None:
    (reason,) = reasons(domain.policy(domain.values | {name: "0000000000000040"}), domain)
    assert domain.values[name] in reason


def test_a_refusal_names_every_value_that_differs(domain: Domain) -> None:
    assert len(reasons(domain.policy(dict.fromkeys(MEASURED, "ab" * 48)), domain)) == 8


def test_one_of_several_trust_domains_is_enough(domain: Domain) -> None:
    policy = domain.policy(trust_domains=[{"mrtd": "ab" * 48}, domain.values])
    assert policy.appraise(domain.quote, report_data=domain.report_data)


def test_the_tcb_rules_are_those_of_sgx(domain: Domain) -> None:
    assert domain.policy(minimum_tcb_evaluation_data_number=17).appraise(domain.quote, report_data=domain.report_data)
    (reason,) = reasons(domain.policy(minimum_tcb_evaluation_data_number=18), domain)
    assert "17, less than 18" in reason
    (reason,) = reasons(domain.policy(machines=["00" * 16]), domain)
    assert "not among those allowed" in reason


def test_other_report_data_is_refused(domain: Domain) -> None:
    with pytest.raises(EvidenceBindingError):
        domain.policy().appraise(domain.quote, report_data=bytes(64))


def test_outside_the_validity_it_is_refused(domain: Domain) -> None:
    with pytest.raises(CollateralExpiredError):
        domain.policy().appraise(domain.quote, report_data=domain.report_data, now=domain.now + 40 * 86400)


def test_a_trust_domain_in_debug_mode_is_refused(domain: Domain) -> None:
    changed = bytearray(domain.quote)
    changed[48 + 120] |= 1  # TDATTRIBUTES
    with pytest.raises(DebugEnclaveError, match="trust domain runs in debug mode"):
        domain.policy().appraise(bytes(changed), report_data=domain.report_data)


@pytest.mark.parametrize("offset", [48, 64, 112, 160, 169, 176, 184, 376, 424, 520], ids=str)
def test_each_changed_field_of_the_report_is_refused(domain: Domain, offset: int) -> None:
    # TEE_TCB_SVN, MRSEAM, MRSIGNERSEAM, SEAMATTRIBUTES, TDATTRIBUTES, XFAM, MRTD, RTMR0, RTMR1, RTMR3
    changed = bytearray(domain.quote)
    changed[offset] ^= 2
    with pytest.raises(SignatureInvalidError):
        domain.policy().appraise(bytes(changed), report_data=domain.report_data)


def test_a_policy_with_the_firmware_alone_is_loaded_with_a_warning(
    domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sealserve"):
        domain.policy()
        assert caplog.messages == []
        policy = domain.policy({"mrtd": domain.values["mrtd"]})
    assert caplog.messages == ["policy-pins-firmware-only"]
    assert policy.appraise(domain.quote, report_data=domain.report_data)


def test_a_policy_that_leaves_the_settings_to_the_host_is_loaded_with_a_warning(
    domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sealserve"):
        domain.policy({name: value for name, value in domain.values.items() if name != "rtmr3"})
    assert caplog.messages == ["policy-pins-no-settings"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"trust_domains": []}, "trust_domains: must name at least one trust domain"),
        ({"trust_domains": [{}]}, "trust_domains[0].mrtd: is missing"),
        ({"trust_domains": [{"rtmr1": "ab" * 48}]}, "trust_domains[0].mrtd: is missing"),
        ({"trust_domains": [{"mrtd": "ab" * 32}]}, "must be 48 bytes in hexadecimal (96 digits), and this is 32 bytes"),
        ({"trust_domains": [{"mrtd": "ab" * 48, "rtmr2": None}]}, "rtmr2: is empty"),
        ({"trust_domains": [{"mrtd": "ab" * 48, "rtmr4": "ab" * 48}]}, "rtmr4: is not a known setting"),
        ({"trust_domains": [{"mrtd": "ab" * 48, "td_attributes": "01" + "00" * 7}]}, "has the debug bit"),
        ({"enclaves": [{"mrenclave": "ab" * 32}]}, "enclaves: is not for tee: tdx"),
        ({"insecure_accept_simulated_platform": True}, "must not be true for tee: tdx"),
        ({"insecure_accept_debug": True}, "cannot be true"),
    ],
)
def test_a_careless_policy_is_an_error(domain: Domain, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        domain.policy(**settings)
    assert why in caught.value.message


def test_a_simulated_root_is_no_root_for_trust_domains(domain: Domain, platform: SimulatedPlatform) -> None:
    (domain.directory / "root.pem").write_text(platform.root_pem)
    with pytest.raises(ConfigurationError, match="is a simulated platform's"):
        domain.policy(trust_root="root.pem")


def test_a_trust_domain_is_no_enclave_and_the_other_way_round(domain: Domain, platform: SimulatedPlatform) -> None:
    reference = TrustDomainReference(bytes.fromhex(domain.values["mrtd"]))
    evidence = domain.policy().appraise(domain.quote, report_data=domain.report_data)
    assert AnyOf([MrEnclave(bytes(32)), reference]).verify(evidence)
    with pytest.raises(EvidenceRefusedError, match="MRENCLAVE is missing"):
        AllOf([MrEnclave(bytes(32)), reference]).verify(evidence)
    from evidence_corpus import ENCLAVE, REPORT_DATA, verifier

    enclave = verifier(platform).verify(platform.quote(ENCLAVE, REPORT_DATA))
    with pytest.raises(EvidenceRefusedError, match="MRTD is missing"):
        reference.verify(enclave)
    with pytest.raises(ConfigurationError, match="MRTD has 32 bytes"):
        TrustDomainReference(bytes(32))
