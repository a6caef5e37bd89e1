"""Types that several sections of ``deployment.yaml`` have fields of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from sealserve.addresses import Address, parse_address
from sealserve.errors import InputError


def _address(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_address(value, allow_any_port=True)
    except InputError as error:
        raise ValueError(f"is not an address. {error.hint}") from None


def _given(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("must not be empty")
    return value


PathText = Annotated[Path, BeforeValidator(_given)]
AddressText = Annotated[Address, BeforeValidator(_address), PlainSerializer(str)]
