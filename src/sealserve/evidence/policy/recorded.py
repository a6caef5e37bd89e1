"""Reference values recorded from a quote of a guest that its owner trusts."""

from __future__ import annotations

from sealserve.errors import InputError
from sealserve.evidence.policy.collateral_settings import CollateralSettings
from sealserve.evidence.policy.document import PolicyDocument, TrustDomainSettings
from sealserve.evidence.quote import EnclaveReport, Quote


def trust_domain_policy(quote: Quote, *, rtmr3: bytes, collateral: CollateralSettings) -> PolicyDocument:
    """A policy that demands everything that the quote says of a trust domain. The quote is not verified.

    :param rtmr3: 48 bytes, to be demanded of RTMR 3, which the quote may have or may not have yet.
    :raises InputError: the quote is of no trust domain, of one in debug mode, or has something else in RTMR 3.
    """
    report = quote.report
    if isinstance(report, EnclaveReport):
        raise InputError(
            "the quote is of an SGX enclave, and of no trust domain",
            hint="Its measurement is what a policy for tee: sgx names in `enclaves`.",
        )
    if report.debug:
        raise InputError(
            "the trust domain runs in debug mode: the host can read its memory, and no policy accepts it",
            hint="Start the trust domain without the debug attribute.",
        )
    rtmr0, rtmr1, rtmr2, found = report.rtmrs
    if found not in {bytes(48), rtmr3}:
        raise InputError(
            "RTMR 3 in the quote is neither zero nor what replicas with these settings make of it",
            hint="Check deployment and broker CA. If they are right, something else in the guest uses RTMR 3, and "
            "replicas will not run in it.",
        )
    domain = TrustDomainSettings(
        mrtd=report.mrtd,
        rtmr0=rtmr0,
        rtmr1=rtmr1,
        rtmr2=rtmr2,
        rtmr3=rtmr3,
        mr_config_id=report.mr_config_id,
        mr_owner=report.mr_owner,
        mr_owner_config=report.mr_owner_config,
        td_attributes=report.attributes,
        xfam=report.xfam,
    )
    return PolicyDocument.model_validate({"tee": "tdx", "collateral": collateral, "trust_domains": (domain,)})
