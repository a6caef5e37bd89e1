"""Where a client connects to, which protocol is spoken there, and what TLS has to show."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Self

from sealserve.addresses import Address, parse_address
from sealserve.client.protocols import GRPC, REST, Grpc, Rest
from sealserve.client.server_name import DEFAULT_SERVER_NAME, check_server_name
from sealserve.client.tls import OwnerCertificates, client_context
from sealserve.errors import InputError

REST_SCHEME = "https://"


def parse_target(target: str) -> tuple[Address, Grpc | Rest]:
    """Read ``host:port``, which speaks gRPC, or ``https://host:port``, which speaks REST.

    Port and protocol belong together, so one text has both.

    :raises InputError: it is neither.
    """
    if target.lower().startswith("http://"):
        raise InputError(
            f"{target!r} is not encrypted, and nothing is sent there", hint="Write https://host:port for REST over TLS."
        )
    if target.lower().startswith(REST_SCHEME):
        return parse_address(target[len(REST_SCHEME) :].removesuffix("/")), REST
    return parse_address(target), GRPC


@dataclass(frozen=True)
class Endpoint:
    """An address, the protocol that is spoken there, and the context and name for TLS with it."""

    address: Address
    protocol: Grpc | Rest
    server_name: str
    context: ssl.SSLContext

    @classmethod
    def attested(cls, target: str, server_name: str | None, certificates: OwnerCertificates | None) -> Self:
        """A target that will give evidence. :raises InputError: an argument is not usable."""
        name = check_server_name(server_name or DEFAULT_SERVER_NAME)
        address, protocol = parse_target(target)
        return cls(address, protocol, name, client_context(certificates, protocol.alpn, evidence=True))

    @classmethod
    def by_certificate(cls, target: str, server_name: str | None, certificates: OwnerCertificates) -> Self:
        """A target that is known by its certificate alone, by default for the name or address in ``target``."""
        address, protocol = parse_target(target)
        name = check_server_name(server_name) if server_name else address.host
        return cls(address, protocol, name, client_context(certificates, protocol.alpn, evidence=False))

    @property
    def authority(self) -> str:
        """What requests name as their server."""
        return self.server_name if self.protocol is GRPC else str(Address(self.server_name, self.address.port))
