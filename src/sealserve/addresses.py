"""Network addresses as the command line and configuration files write them: ``host:port`` and ``[ipv6]:port``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from sealserve.errors import InputError

_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Address:
    """A host (IP address, without brackets, or DNS name) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def reachable_here(self) -> Address:
        """Where a process on this machine connects to: a wildcard address becomes the loopback address."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)  # noqa: S104

    def with_port(self, port: int) -> Address:
        """The same host with another port."""
        return Address(self.host, port)


def is_dns_name(text: str) -> bool:
    """Whether ``text`` is a DNS host name (RFC 1123): letters, digits and hyphens, at most 253 characters."""
    return 0 < len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def parse_address(text: str, *, allow_any_port: bool = False) -> Address:
    """Read ``host:port``; an IPv6 address stands in brackets.

    :param allow_any_port: accept port 0, which asks the system for a free one.
    :raises InputError: it is no such address.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", text)
    if match is None:
        raise InputError(
            f"{text!r} is not an address",
            hint='Write host:port, for example 127.0.0.1:8500 or [::1]:8500 (in YAML in quotes: "[::1]:8500").',
        )
    bracketed, plain, digits = match.groups()
    try:
        host = str(ipaddress.IPv6Address(bracketed)) if bracketed else _plain_host(plain)
    except ValueError:
        raise InputError(f"{text!r} has no valid host", hint="Give an IP address or a DNS name.") from None
    port = int(digits)
    if port > 65535 or (port == 0 and not allow_any_port):
        raise InputError(f"{text!r} has no valid port", hint="A port is a number from 1 to 65535.")
    return Address(host, port)


def _plain_host(text: str) -> str:
    if re.fullmatch(r"[0-9.]+", text):
        return str(ipaddress.IPv4Address(text))
    if not is_dns_name(text):
        raise ValueError
    return text.lower()
