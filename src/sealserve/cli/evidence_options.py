"""What the commands of ``sealserve evidence`` read from their options."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sealserve.evidence.policy import CollateralSettings

COLLATERAL_HELP = (
    "Where the policy takes collateral from: intel, azure, alibaba:REGION, a URL, or a file (relative to the policy)."
)


def read_time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """An option's time as seconds since 1970."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no time like 2025-06-19T12:00:00") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_report_data(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
    """An option's report data."""
    if value is None:
        return None
    try:
        data = bytes.fromhex(value)
    except ValueError as error:
        raise click.BadParameter("is not hexadecimal") from error
    if len(data) != 64:
        raise click.BadParameter(f"must be 64 bytes (128 hexadecimal digits), and this is {len(data)} bytes")
    return data


def read_collateral(text: str) -> CollateralSettings:
    """The value of --collateral, as a policy has it."""
    from pydantic import ValidationError

    from sealserve.errors import InputError
    from sealserve.evidence.policy import CollateralSettings

    named = text in {"intel", "azure"} or text.startswith("alibaba:") or "://" in text
    try:
        return CollateralSettings.model_validate({"service": text} if named else text)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        raise InputError(f"--collateral: {found.get('ctx', {}).get('error', found['msg'])}") from None
