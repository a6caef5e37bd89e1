"""What evidence out of a file says of models, judged as ``sealserve verify --saved`` judges it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sealserve.cli.evidence_files import StoredEvidence
from sealserve.errors import TrustError
from sealserve.evidence.appraisal import Appraisal, Step

if TYPE_CHECKING:
    from sealserve.client.attestation import Claims
    from sealserve.evidence import AppraisalPolicy


def judge_stored(
    found: StoredEvidence, policy: AppraisalPolicy, *, report_data: bytes | None, now: float | None
) -> tuple[Appraisal, Claims | None]:
    """Appraise a quote, then the claims beside it.

    :param report_data: 64 bytes that the quote must be over instead of what the file tells.
    :returns: the appraisal, with the steps ``models`` and ``plain-text``; and the claims, if all of it is accepted.
    """
    from sealserve.client.stored_claims import PLAIN_TEXT_HOLDS, check_plain_text, judge_claims

    asked = found.report_data if report_data is None else report_data
    appraisal = policy.appraise_with_steps(found.quote, report_data=asked, now=now)
    if appraisal.error is not None or appraisal.evidence is None:
        return _with(appraisal, Step("models", ok=None, detail="not reached")), None
    # Over other report data than theirs, the quote says nothing of the claims.
    claims = found.claims if asked == found.report_data else None
    steps: list[Step] = []
    try:
        name = "models"
        served, detail = judge_claims(claims, policy)
        steps.append(Step(name, ok=None if served is None else True, detail=detail))
        if found.told:
            name = "plain-text"
            check_plain_text(found.told, claims, appraisal.evidence)
            steps.append(Step(name, ok=True, detail=PLAIN_TEXT_HOLDS))
    except TrustError as error:
        return _with(appraisal, *steps, Step(name, ok=False, detail=error.message), error=error), None
    return _with(appraisal, *steps), served if appraisal.accepted else None


def _with(appraisal: Appraisal, *steps: Step, error: TrustError | None = None) -> Appraisal:
    """The appraisal with more steps, ahead of its result."""
    *others, result = appraisal.steps
    if error is None:
        return dataclasses.replace(appraisal, steps=(*others, *steps, result))
    result = Step(result.name, ok=False, detail=error.message)
    return dataclasses.replace(appraisal, steps=(*others, *steps, result), error=error)
