"""The name under which replicas answer behind a gateway."""

from __future__ import annotations

from sealserve.addresses import is_dns_name
from sealserve.errors import InputError

DEFAULT_SERVER_NAME = "replica.sealserve.internal"
"""Sent as TLS server name (SNI), by which a gateway routes. Nobody's identity comes from a name: evidence decides."""


def check_server_name(name: str) -> str:
    """``name`` itself, if it can be sent as a TLS server name.

    :raises InputError: it cannot.
    """
    if not is_dns_name(name) or name.replace(".", "").isdigit():
        raise InputError(f"{name!r} is no server name", hint="Give a DNS name such as replica.sealserve.internal.")
    return name
