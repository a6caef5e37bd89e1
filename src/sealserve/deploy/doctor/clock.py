"""The clock: certificates and collateral are valid from one time to another."""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from datetime import UTC, datetime

from sealserve.deploy.doctor.finding import Finding, Question

_SLIGHT, _SERIOUS = 5.0, 60.0  # seconds; the header says whole ones
_MEND = "sudo timedatectl set-ntp true (or install chrony)"


def examine_synchronization(question: Question) -> Iterator[Finding]:
    """Whether somebody keeps the clock right."""
    said = question.machine.run("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if said == "yes":
        yield Finding("clock-synchronization", "ok", "the clock is synchronized")
    elif said == "no" and not question.machine.in_container:
        yield Finding("clock-synchronization", "warning", "nobody synchronizes the clock", _MEND)
    else:
        yield Finding("clock-synchronization", "note", "whether somebody synchronizes the clock is not known")


def judge_offset(question: Question, header: str | None, before: float, after: float) -> Finding | None:
    """Compare the clock with the ``Date`` of an answer (RFC 9110, 6.6.1).

    :param before: the time of the request, in seconds since 1970. :param after: that of the answer.
    :returns: none if the answer has no date.
    """
    try:
        moment = email.utils.parsedate_to_datetime(header or "")
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # The header's second may be any part of that second.
    offset = (before + after) / 2 - (moment.timestamp() + 0.5)
    way = "ahead" if offset > 0 else "behind"
    text = f"the clock is {abs(offset):.0f} s {way} of the service's ({moment:%Y-%m-%d %H:%M:%S} UTC there)"
    if abs(offset) <= _SLIGHT:
        return Finding("clock", "ok", f"the clock agrees with the service's within {_SLIGHT:.0f} s")
    if abs(offset) <= _SERIOUS:
        return Finding("clock", "warning", text, _MEND)
    return Finding("clock", question.needed_for("sgx", "tdx"), text, _MEND)


def days_left(until: datetime, now: float) -> float:
    """Days from ``now`` (seconds since 1970) to ``until``; negative if it is over."""
    return (until.timestamp() - now) / 86400
