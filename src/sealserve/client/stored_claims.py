"""What is said of models beside a quote: in the claims that the quote is bound to, and in plain text for people.

Only the claims count. ``sealserve verify --saved`` and ``sealserve evidence verify`` judge both by this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sealserve.client.attestation import Claims, check_models, parse_claims
from sealserve.client.errors import ModelNotAcceptedError, StoredEvidenceAlteredError
from sealserve.evidence import AppraisalPolicy, VerifiedEvidence

# Of a report's `evidence`, what follows from the quote alone, whatever collateral it was judged with.
_OF_THE_QUOTE = (
    "tee",
    "simulated",
    "mrenclave",
    "mrsigner",
    "isv_prod_id",
    "isv_svn",
    "debug",
    "attributes",
    "report_data",
    "ppid",
    "fmspc",
    "trust_domain",
)
PLAIN_TEXT_HOLDS = "the file says nothing else of enclave, replica and models than the evidence"
_HINT = "The file was changed after it was written, or damaged. Take nothing from it; ask for fresh evidence."


def claims_as_dict(claims: Claims) -> dict[str, Any]:
    """``replica`` and ``models`` of a report, JSON-ready."""
    models = [{"name": m.name, "version": m.version, "digest": m.digest.hex()} for m in claims.models]
    return {"replica": claims.replica, "models": models}


def judge_claims(data: bytes | None, policy: AppraisalPolicy) -> tuple[Claims | None, str]:
    """Hold claims that a quote was found bound to against the policy's ``models``.

    :param data: serialized claims; None if there are none that the quote is bound to.
    :returns: the claims, and for people what they name.
    :raises EvidenceMissingError: the claims are malformed.
    :raises ModelNotAcceptedError: they name another model or none, or there are no claims and the policy lists models.
    """
    if data is None:
        if policy.models:
            raise ModelNotAcceptedError(
                "the policy lists models, and there are no claims that say which models are served",
                hint="Judge what `sealserve verify HOST:PORT --save FILE` keeps, or use a policy without `models`.",
            )
        return None, "not known, for there are no claims about them; any model is accepted"
    claims = parse_claims(data)
    check_models(claims, policy)
    served = ", ".join(f"{m.name} version {m.version} ({m.digest.hex()[:16]}…)" for m in claims.models) or "none"
    return claims, served + ("" if policy.models else "; any model is accepted")


def check_plain_text(told: Mapping[str, Any], claims: bytes | None, evidence: VerifiedEvidence) -> None:
    """What a stored report says in plain text must be what its quote and the claims say.

    :param told: the report. :param claims: that the quote is bound to; None if there are none.
    :raises StoredEvidenceAlteredError: a field says something else. :raises EvidenceMissingError: claims are malformed.
    """
    bound = {} if claims is None else claims_as_dict(parse_claims(claims))
    altered = [
        name
        for name in ("replica", "models")
        if name in told and (name not in bound or not _same(told[name], bound[name]))
    ]
    described = told.get("evidence", {})
    if isinstance(described, Mapping):
        true = evidence.as_dict()
        names = [name for name in _OF_THE_QUOTE if name in described]
        altered += [f"evidence.{name}" for name in names if not _same(described[name], true.get(name))]
    else:
        altered.append("evidence")
    if altered:
        verb = "differs" if len(altered) == 1 else "differ"
        raise StoredEvidenceAlteredError(
            f"what the file says in plain text {verb} from what the evidence is bound to: {', '.join(altered)}",
            hint=_HINT,
        )


def _same(told: Any, true: Any) -> bool:
    # As JSON, in which true is not 1, as it is in Python.
    return json.dumps(told, sort_keys=True) == json.dumps(true, sort_keys=True)
