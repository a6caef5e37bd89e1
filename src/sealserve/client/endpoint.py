"""Where a client connects to, and what TLS has to show there."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Self

from sealserve.addresses import Address, parse_address
from sealserve.client.server_name import DEFAULT_SERVER_NAME, check_server_name
from sealserve.client.tls import OwnerCertificates, client_context


@dataclass(frozen=True)
class Endpoint:
    """An address, and the context and name for TLS with it."""

    address: Address
    server_name: str
    context: ssl.SSLContext

    @classmethod
    def attested(cls, target: str, server_name: str | None, certificates: OwnerCertificates | None) -> Self:
        """A target that will give evidence. :raises InputError: an argument is not usable."""
        name = check_server_name(server_name or DEFAULT_SERVER_NAME)
        return cls(parse_address(target), name, client_context(certificates, evidence=True))

    @classmethod
    def by_certificate(cls, target: str, server_name: str | None, certificates: OwnerCertificates) -> Self:
        """A target that is known by its certificate alone, by default for the name or address in ``target``."""
        address = parse_address(target)
        name = check_server_name(server_name) if server_name else address.host
        return cls(address, name, client_context(certificates, evidence=False))
