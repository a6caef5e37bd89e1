from __future__ import annotations

import json

import pytest

from sealserve.errors import InputError, MachineError, TrustError, UnavailableError
from sealserve.local.diagnosis import diagnose

OURS = json.dumps({"error": "no key", "reason": "broker-refused", "hint": "See the policy."})


@pytest.mark.parametrize(
    ("code", "lines", "reason", "hint"),
    [
        (4, [OURS], "no key", "See the policy."),
        (4, ["{broken", OURS, '{"event": "later"}'], "no key", "See the policy."),
        (3, ["error: bad file", "       Mend it."], "bad file", "Mend it."),
        (3, ["error: bad file"], "bad file", None),
        (
            1,
            ["2026/11/24 [emerg] 12#12: bind() failed", "x [emerg] 1#1: still could not bind()"],
            "bind() failed",
            None,
        ),
        (1, ["Traceback:", "  File", "ValueError: odd"], "ValueError: odd", "This is a defect in sealserve"),
        (7, ["first", "", "last words", ""], "exit code 7; its last line: last words", None),
        (7, [], "exit code 7", None),
        (0, [], "it ended without being asked to", None),
        (-15, [OURS], "killed by SIGTERM", "See the policy."),
        (-9, [], "killed by SIGKILL", "memory"),
        (-64, [], "killed by SIGRTMAX", None),
        (4, ['{"error": 5, "reason": "x"}', "[]", "null"], "exit code 4; its last line: null", None),
    ],
)
def test_the_reason_is_the_last_error(code: int, lines: list[str], reason: str, hint: str | None) -> None:
    found = diagnose(code, lines)
    assert found.reason == reason
    assert hint is None or hint in str(found.hint)


@pytest.mark.parametrize(
    ("code", "kind", "permanent"),
    [
        (3, InputError, True),
        (4, TrustError, True),
        (5, UnavailableError, False),
        (6, MachineError, True),
        (1, MachineError, False),
        (-9, MachineError, False),
    ],
)
def test_the_error_keeps_the_cause(code: int, kind: type[Exception], permanent: bool) -> None:
    found = diagnose(code, [])
    assert type(found.as_error("replica-1", "/x.log")) is kind
    assert found.permanent is permanent
