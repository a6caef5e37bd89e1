"""Types that several sections of ``deployment.yaml`` have fields of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

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


# Of libpq, https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS.
_SECRET_PARAMETERS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key"})


def _is_database(value: str) -> str:
    try:
        url = urlsplit(value)
        known = url.scheme in {"postgresql", "postgres"} and bool(url.path.strip("/")) and url.port != 0
    except ValueError:
        known = False
    if not known:
        raise ValueError("must be postgresql://USER@HOST/DATABASE")
    if url.password is not None or not _SECRET_PARAMETERS.isdisjoint(parse_qs(url.query, keep_blank_values=True)):
        raise ValueError("must hold no password: that is in a file of its own (see .pgpass), or a certificate's matter")
    return value


DatabaseText = Annotated[str, AfterValidator(_is_database)]
"""URL of a PostgreSQL database, without a password."""

PathText = Annotated[Path, BeforeValidator(_given)]
AddressText = Annotated[Address, BeforeValidator(_address), PlainSerializer(str)]
