"""When a call is tried again, and with which error it ends."""

from __future__ import annotations

import pytest

from sealserve.client.deadline import Deadline
from sealserve.client.errors import DeadlinePassedError, NotProcessedError, TargetUnreachableError
from sealserve.client.retries import Retries


def test_a_last_try_that_had_no_time_left_does_not_hide_why_those_before_failed() -> None:
    retries = Retries(Deadline(0.05), repeatable=True)
    cause = TargetUnreachableError("connection refused")
    retries.pause_after(cause, sent=False, reached=True)

    def try_on() -> None:
        while True:
            retries.pause_after(DeadlinePassedError("no result within 0.002 s"), sent=False, reached=True)

    with pytest.raises(TargetUnreachableError) as caught:
        try_on()
    assert caught.value is cause


def test_a_call_that_only_ran_out_of_time_says_so() -> None:
    late = DeadlinePassedError("no result within 0.01 s")
    retries = Retries(Deadline(1e-6), repeatable=True)
    with pytest.raises(DeadlinePassedError) as caught:
        retries.pause_after(late, sent=False, reached=True)
    assert caught.value is late


def test_what_was_answered_is_not_repeated_because_a_later_question_was_not_taken() -> None:
    not_taken = NotProcessedError("the server ends this connection")
    assert Retries(Deadline(5), repeatable=False).pause_after(not_taken, sent=True, reached=True) > 0
    with pytest.raises(NotProcessedError):
        Retries(Deadline(5), repeatable=False).pause_after(not_taken, sent=True, answered=True, reached=True)
