"""TCB info and QE identity: the two signed JSON documents that a quote is judged with.

Format: Intel, "Provisioning Certification Service for ECDSA Attestation", API version 4, `Get TCB Info` and
`Get Enclave Identity`. The signature covers the bytes of the JSON document exactly as they are sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sealserve.evidence.measurement import SimulatedEnclave
from sealserve.evidence.simulated.profile import CURRENT_PCE_SVN, CURRENT_SVNS, PlatformProfile

QUOTING_ENCLAVE = SimulatedEnclave(
    mrenclave=hashlib.sha256(b"sealserve simulated quoting enclave").digest(),
    mrsigner=hashlib.sha256(b"sealserve simulated quoting enclave signer").digest(),
    isv_prod_id=1,
    isv_svn=8,
)

_OLD_ADVISORIES = ("SIMULATED-SA-00002", "SIMULATED-SA-00001")
_OUTDATED = frozenset({"OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"})


def tcb_info(profile: PlatformProfile, *, issued: datetime, validity: timedelta) -> str:
    """The TCB info of the platform's kind, version 3, as compact JSON."""
    current = profile.tcb_status
    levels = []
    if current in _OUTDATED:
        # What this machine should have been updated to.
        levels.append(_level(_shifted(+1), CURRENT_PCE_SVN, issued, "UpToDate"))
    levels += [
        _level(CURRENT_SVNS, CURRENT_PCE_SVN, issued, current, profile.advisory_ids),
        _level(_shifted(-1), CURRENT_PCE_SVN - 2, issued - timedelta(days=365), "OutOfDate", _OLD_ADVISORIES[1:]),
        _level(_shifted(-2), CURRENT_PCE_SVN - 6, issued - timedelta(days=900), "OutOfDate", _OLD_ADVISORIES),
    ]
    document: dict[str, Any] = {
        "id": profile.tcb_info_id,
        "version": 3,
        **_validity(issued, validity),
        "fmspc": (profile.collateral_fmspc or profile.fmspc).hex().upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": profile.tcb_evaluation_data_number,
        "tcbLevels": levels,
    }
    return _compact(document)


def qe_identity(profile: PlatformProfile, *, issued: datetime, validity: timedelta) -> str:
    """The identity of the simulated quoting enclave, version 2, as compact JSON."""
    level: dict[str, Any] = {
        "tcb": {"isvsvn": QUOTING_ENCLAVE.isv_svn},
        "tcbDate": _tcb_date(issued),
        "tcbStatus": profile.qe_tcb_status,
    }
    if profile.qe_advisory_ids:
        level["advisoryIDs"] = list(profile.qe_advisory_ids)
    older = {
        "tcb": {"isvsvn": QUOTING_ENCLAVE.isv_svn - 2},
        "tcbDate": _tcb_date(issued - timedelta(days=365)),
        "tcbStatus": "OutOfDate",
        "advisoryIDs": list(_OLD_ADVISORIES[1:]),
    }
    return _compact(
        {
            "id": profile.qe_identity_id,
            "version": 2,
            **_validity(issued, validity),
            "tcbEvaluationDataNumber": profile.tcb_evaluation_data_number,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": (profile.qe_mrsigner or QUOTING_ENCLAVE.mrsigner).hex().upper(),
            "isvprodid": QUOTING_ENCLAVE.isv_prod_id,
            "tcbLevels": [level, older],
        }
    )


def _level(
    svns: Sequence[int], pce_svn: int, issued: datetime, status: str, advisories: Sequence[str] = ()
) -> dict[str, Any]:
    level: dict[str, Any] = {
        "tcb": {"sgxtcbcomponents": [{"svn": svn} for svn in svns], "pcesvn": pce_svn},
        "tcbDate": _tcb_date(issued),
        "tcbStatus": status,
    }
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return level


def _shifted(by: int) -> tuple[int, ...]:
    """The machine's component SVNs, with those that are in use moved up or down."""
    return tuple(max(0, svn + by) if svn else 0 for svn in CURRENT_SVNS)


def _validity(issued: datetime, validity: timedelta) -> dict[str, str]:
    return {"issueDate": _timestamp(issued), "nextUpdate": _timestamp(issued + validity)}


def _tcb_date(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT00:00:00Z}"


def _timestamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _compact(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
