"""Which requests of local programs the proxy passes on, and which of their headers.

A loopback port is open to the pages of a browser, too. A page of anywhere can send requests to ``127.0.0.1``, and one
whose name an attacker resolves to ``127.0.0.1`` (DNS rebinding) reads the answers. The first is known by ``Origin`` or
``Sec-Fetch-Site``, which pages cannot leave out or choose, the second by ``Host``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from sealserve.addresses import is_dns_name

_METHODS = frozenset({"GET", "HEAD", "POST"})
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")
_PASSED = frozenset({"accept", "content-type", "content-encoding", "inference-header-content-length"})
_PASSED_BACK = frozenset({"content-type", "inference-header-content-length", "retry-after", "allow", "accept-encoding"})
_OURS = "sealserve-"
_NOT_PASSED_BACK = frozenset({"sealserve-reason"})  # says that no replica answered

Pairs = Iterable[tuple[str, str]]


class RefusedError(Exception):
    """A request that is not passed on."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def check(method: str, path: str, headers: Pairs, *, any_host: bool, version: tuple[int, int] = (1, 1)) -> None:
    """Look at a request before its body is read.

    :param path: as it came. :param version: HTTP's, that the request names.
    :param any_host: do not look at ``Host``: no browser comes this way.
    :raises RefusedError: it is not passed on.
    """
    named: dict[str, list[str]] = {}
    for name, value in headers:
        named.setdefault(name.lower(), []).append(value)
    if "content-length" in named and "transfer-encoding" in named:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the request says its length in two ways")
    if version not in {(1, 0), (1, 1)}:
        raise RefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "the proxy speaks HTTP/1.1")
    if codings := named.get("transfer-encoding"):
        if version == (1, 0):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding")
        # The parser undoes chunks only; of any other coding the replica would not be told.
        if [coding.strip().lower() for coding in codings] != ["chunked"]:
            raise RefusedError(HTTPStatus.NOT_IMPLEMENTED, "the proxy takes no Transfer-Encoding but chunked")
    if method not in _METHODS:
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "the proxy passes GET, HEAD and POST")
    if not path.startswith("/"):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the proxy takes paths, and no addresses of other servers")
    hosts = named.get("host", [])
    if not any_host and not (len(hosts) == 1 and is_loopback_name(hosts[0])):
        raise RefusedError(HTTPStatus.FORBIDDEN, "Host must name this machine: 127.0.0.1, [::1] or localhost")
    origins = named.get("origin", [])
    if any(not _is_local_origin(origin) for origin in origins):
        raise RefusedError(HTTPStatus.FORBIDDEN, "the proxy does not serve web pages of other sites")
    if not origins and any(site not in {"same-origin", "none"} for site in named.get("sec-fetch-site", [])):
        raise RefusedError(HTTPStatus.FORBIDDEN, "the proxy does not serve web pages of other sites")
    if "upgrade" in named:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the proxy does not change the protocol")


def passed(headers: Pairs) -> tuple[tuple[str, str], ...]:
    """The headers of a request that a replica gets."""
    return tuple((n.lower(), v) for n, v in headers if n.lower() in _PASSED or n.lower().startswith(_OURS))


def passed_back(headers: Pairs) -> list[tuple[str, str]]:
    """The headers of an answer that a program gets."""
    return [
        (n, v)
        for n, v in headers
        if n.lower() in _PASSED_BACK or (n.lower().startswith(_OURS) and n.lower() not in _NOT_PASSED_BACK)
    ]


def is_loopback_name(host: str) -> bool:
    """Whether ``Host`` names the loopback interface, with or without a port."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1] or found[2]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return found[1] is None and is_dns_name(name) and name.lower() == "localhost"


def _is_local_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and is_loopback_name(parts.netloc)
