"""What a simulated platform is like. The defaults are an up-to-date machine; tests ask for broken ones."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

WARNING = "SIMULATED NO PROTECTION"
"""Stands in every subject. Without a comma, which distinguished names would escape."""

# Sixteen component SVNs, the PCE's SVN: the shape of a real server platform, with made-up values.
CURRENT_SVNS = (7, 9, 3, 3, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
CURRENT_PCE_SVN = 13

# Intel re-issues collateral so that it is valid for 30 days, and its root CA's revocation list for about a year.
COLLATERAL_VALIDITY = timedelta(days=30)
ROOT_CRL_VALIDITY = timedelta(days=365)
CERTIFICATE_VALIDITY = timedelta(days=7 * 365)


@dataclass(frozen=True, kw_only=True)
class PlatformProfile:
    """The parameters of a simulated platform.

    :param fmspc: 6 bytes, the kind of platform. :param ppid: 16 bytes, the machine.
    :param tcb_status: the status that the TCB info gives to this machine's SVNs.
    :param advisory_ids: the advisories that come with that status.
    :param qe_tcb_status: likewise for the quoting enclave. :param qe_advisory_ids: likewise.
    :param tcb_evaluation_data_number: the number of the TCB recovery event that TCB info and QE identity belong to.
    :param revoked_pck: the machine's PCK certificate stands in the PCK revocation list.
    :param revoked_platform_ca: the platform CA's certificate stands in the root's revocation list.
    :param collateral_fmspc: the FMSPC in the TCB info, if it shall not be the machine's (mismatched collateral).
    :param tcb_info_id: ``"SGX"``; ``"TDX"`` makes the collateral one of another TEE.
    :param qe_identity_id: ``"QE"``; ``"TD_QE"`` likewise.
    :param qe_mrsigner: 32 bytes, what the QE identity demands, if it shall not be the quoting enclave's own signer.
    :param root_common_name: the subject of the root. It must say that it is simulated to be taken as such.
    """

    fmspc: bytes = bytes.fromhex("515EA15E0001")
    ppid: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    tcb_status: str = "UpToDate"
    advisory_ids: tuple[str, ...] = ()
    qe_tcb_status: str = "UpToDate"
    qe_advisory_ids: tuple[str, ...] = ()
    tcb_evaluation_data_number: int = 20
    revoked_pck: bool = False
    revoked_platform_ca: bool = False
    collateral_fmspc: bytes | None = None
    tcb_info_id: str = "SGX"
    qe_identity_id: str = "QE"
    qe_mrsigner: bytes | None = None
    root_common_name: str = f"{WARNING} sealserve SGX Root CA"

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form; bytes as hex."""
        return {key: value.hex() if isinstance(value, bytes) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PlatformProfile:
        """The reverse of :meth:`as_dict`.

        :raises ValueError: a value has the wrong form. :raises TypeError: an unknown parameter.
        """
        known = dict(values)
        for key in ("fmspc", "ppid", "collateral_fmspc", "qe_mrsigner"):
            if known.get(key) is not None:
                known[key] = bytes.fromhex(known[key])
        for key in ("advisory_ids", "qe_advisory_ids"):
            known[key] = tuple(known.get(key, ()))
        return cls(**known)
