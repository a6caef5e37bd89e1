"""Evidence that was verified: who signed it and what it says. Whether that is acceptable is for a policy to judge."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True)
class TrustDomain:
    """What a TDX quote says about a trust domain. Measurements have 48 bytes.

    :param attributes: 8 bytes. :param xfam: 8 bytes.
    """

    mrtd: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    attributes: bytes
    xfam: bytes


@dataclass(frozen=True)
class VerifiedEvidence:
    """The claims of a genuine quote.

    :param tee: the kind of TEE. :param simulated: it comes from a simulated platform and protects nothing.
    :param root: the name of the root it leads to, which anyone can give to a root of their own.
    :param own_root: the root is not Intel's. :param root_fingerprint: SHA-256 of the root's certificate.
    :param mrenclave: 32 bytes; empty for TDX, like ``mrsigner``. :param mrsigner: 32 bytes.
    :param debug: the host can read the enclave's memory.
    :param attributes: the enclave's 16 bytes, or the trust domain's 8.
    :param report_data: the 64 bytes that the attester chose.
    :param tcb_status: of platform and quoting enclave together, e.g. ``UpToDate``.
    :param qe_tcb_status: of the quoting enclave alone.
    :param advisory_ids: the advisories that apply.
    :param tcb_evaluation_data_number: the lower one of TCB info and QE identity.
    :param tcb_date: the date of the TCB level. :param ppid: the machine. :param fmspc: the kind of platform.
    :param collateral_expires: when the first part of what it was judged with expires.
    :param verified_at: the time it was judged at.
    :param trust_domain: what is measured in a TDX trust domain; none for SGX.
    """

    tee: Literal["sgx", "tdx"]
    simulated: bool
    root: str
    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    debug: bool
    attributes: bytes
    report_data: bytes
    tcb_status: str
    qe_tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_data_number: int
    tcb_date: datetime
    ppid: bytes
    fmspc: bytes
    collateral_expires: datetime
    verified_at: datetime
    trust_domain: TrustDomain | None = None
    own_root: bool = False
    root_fingerprint: bytes = b""

    @property
    def short_identity(self) -> str:
        """What was measured, in a few words for people: the name of the measurement and how it begins."""
        if self.trust_domain is not None:
            return f"MRTD {self.trust_domain.mrtd.hex()[:16]}…"
        return f"MRENCLAVE {self.mrenclave.hex()[:16]}…"

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form: bytes in hex, times in RFC 3339. The keys are the names of the fields."""
        out = {name: _plain(value) for name, value in vars(self).items() if name != "trust_domain"}
        if self.trust_domain is not None:
            out["trust_domain"] = {name: _plain(value) for name, value in vars(self.trust_domain).items()}
        return out


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return [_plain(item) for item in value]
        case datetime():
            return value.isoformat()
        case _:
            return value
