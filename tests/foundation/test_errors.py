"""Errors carry an exit code by cause, a stable reason and a hint."""

from __future__ import annotations

from sealserve import errors


def all_errors(base: type[errors.SealserveError] = errors.SealserveError) -> list[type[errors.SealserveError]]:
    return [base, *(leaf for child in base.__subclasses__() for leaf in all_errors(child))]


def test_every_cause_has_the_exit_code_that_the_table_gives() -> None:
    table = {errors.InputError: 3, errors.TrustError: 4, errors.UnavailableError: 5, errors.MachineError: 6}
    for base, code in table.items():
        assert {leaf.exit_code for leaf in all_errors(base)} == {code}


def test_the_reason_is_the_name_in_kebab_case() -> None:
    assert errors.KeyFileError("x").reason == "key-file"
    assert errors.PolicyRefusedError("x", hint="y").as_dict() == {
        "error": "x",
        "reason": "policy-refused",
        "hint": "y",
    }
