"""The record of an appraisal: which checks were made, in which order, and what each found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sealserve.errors import SealserveError, TrustError
from sealserve.evidence.certificates import CERTIFICATE_ERRORS
from sealserve.evidence.collateral import Collateral
from sealserve.evidence.errors import UnverifiableEvidenceError
from sealserve.evidence.validity import Validity
from sealserve.evidence.verified import VerifiedEvidence

TITLES = {
    "quote": "Quote is well-formed",
    "root": "The machine's certificates lead to the trusted root",
    "collateral": "Collateral is current and for this platform",
    "revocation": "No certificate is revoked",
    "debug": "Not in debug mode",
    "signature": "Signed by the platform's quoting enclave",
    "binding": "Made for this key and this request",
    "platform": "Kind of platform",
    "tcb": "TCB status and advisories",
    "measurement": "Measurement",
    "machine": "Machine",
    "result": "Result",
}
"""The checks in the order they are made, with a title for people."""


@dataclass(frozen=True)
class Step:
    """One check.

    :param name: a key of :data:`TITLES`. :param ok: none if it was skipped. :param detail: what was found, for people.
    """

    name: str
    ok: bool | None
    detail: str

    @property
    def outcome(self) -> str:
        """``ok``, ``failed`` or ``skipped``."""
        return "skipped" if self.ok is None else "ok" if self.ok else "failed"

    @property
    def title(self) -> str:
        """What the check is about, for people."""
        return TITLES.get(self.name, self.name.replace("-", " ").capitalize())

    def as_dict(self) -> dict[str, str]:
        """A JSON-ready form."""
        return {"name": self.name, "outcome": self.outcome, "detail": self.detail}


@dataclass(frozen=True)
class Appraisal:
    """The outcome of an appraisal.

    :param steps: all checks, in order; the last is ``result``.
    :param evidence: what the evidence says, if it is genuine, even where the policy refuses it.
    :param error: why it was refused; none if it was accepted.
    :param validities: of every part it was judged with, also where one of them was the reason to refuse.
    :param collateral: that it was judged with, to be kept beside the evidence; none if there was none.
    """

    steps: tuple[Step, ...]
    evidence: VerifiedEvidence | None
    error: SealserveError | None
    validities: tuple[Validity, ...] = ()
    collateral: Collateral | None = None

    @property
    def accepted(self) -> bool:
        """Whether the evidence is genuine, bound and accepted by the policy."""
        bound = any(step.name == "binding" and step.ok for step in self.steps)
        return self.error is None and self.evidence is not None and bound

    def require(self) -> VerifiedEvidence:
        """The evidence.

        :raises SealserveError: why it was refused.
        """
        if self.error is not None:
            raise self.error
        if self.evidence is None or not self.accepted:
            raise TrustError(
                "the evidence was not compared with what it must be bound to",
                hint="Give the report data that the quote must be over.",
            )
        return self.evidence

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        out: dict[str, Any] = {"accepted": self.accepted, "steps": [step.as_dict() for step in self.steps]}
        if self.evidence is not None:
            out["evidence"] = self.evidence.as_dict()
        if self.validities:
            out["validities"] = [validity.as_dict() for validity in self.validities]
        if self.error is not None:
            out["refusal"] = self.error.as_dict()
        return out


class Found:
    """What a check that is under way has found."""

    detail = ""


@dataclass
class Record:
    """Collects the steps of an appraisal while it runs."""

    steps: list[Step] = field(default_factory=list)
    validities: tuple[Validity, ...] = ()
    collateral: Collateral | None = None

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Found]:
        """Run a check: it is ok when the block ends, and failed when it raises a :class:`SealserveError`."""
        found = Found()
        try:
            yield found
        except SealserveError as error:
            self.steps.append(Step(name, ok=False, detail=error.message))
            raise
        except CERTIFICATE_ERRORS as error:
            # A parser stumbled over what a stranger sent. That is a refusal, not a crash.
            refusal = UnverifiableEvidenceError("the evidence has a part that cannot be read")
            self.steps.append(Step(name, ok=False, detail=refusal.message))
            raise refusal from error
        self.steps.append(Step(name, ok=True, detail=found.detail))

    def add(self, name: str, *, ok: bool | None, detail: str) -> None:
        """Note the outcome of a check."""
        self.steps.append(Step(name, ok=ok, detail=detail))

    def finish(self, evidence: VerifiedEvidence | None, error: SealserveError | None) -> Appraisal:
        """Close the record: checks that were not reached are skipped."""
        done = {step.name: step for step in self.steps}
        ordered = [done.get(name, Step(name, ok=None, detail="not reached")) for name in TITLES if name != "result"]
        detail = "accepted" if error is None else error.message
        if error is None and not (done.get("binding") and done["binding"].ok):
            detail += ", but not known for whom and when it was made"
        ordered.append(Step("result", ok=error is None, detail=detail))
        return Appraisal(tuple(ordered), evidence, error, self.validities, self.collateral)
