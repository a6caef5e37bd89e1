"""What protects the server and browsers from each other: checks of every request, headers of every answer."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterable
from http import HTTPStatus

from aiohttp import web
from cryptography import x509

from sealserve.broker.admin.problems import HttpError

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Server": "sealserve",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def names_of(certificate: x509.Certificate) -> set[str]:
    """The DNS names that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {name.lower() for name in names.get_values_for_type(x509.DNSName)}


def check_host(request: web.Request, names: Iterable[str]) -> str:
    """The host that the request is for. An IP address is always right: a name that somebody points here is what is not.

    :param names: DNS names that are right, with ``*`` as certificates have it.
    :raises HttpError: it is for another name.
    """
    given = request.headers.getall("Host", [])
    host = _without_port(given[0]).lower() if len(given) == 1 else ""
    if _is_address(host) or any(_matches(host, name) for name in names):
        return given[0]
    raise HttpError(
        HTTPStatus.MISDIRECTED_REQUEST,
        "this server does not go by the name in the Host header",
        reason="wrong-host",
        hint="Use a DNS name in its certificate, or add the name to admin.names in broker.yaml.",
    )


def check_origin(request: web.Request, host: str) -> None:
    """No page of another origin may cause requests, whatever the browser sends along.

    :raises HttpError: one did.
    """
    site = request.headers.get("Sec-Fetch-Site", "none")
    origins = request.headers.getall("Origin", [])
    if site not in {"none", "same-origin"} or any(origin.lower() != f"https://{host.lower()}" for origin in origins):
        raise HttpError(HTTPStatus.FORBIDDEN, "a page of another origin may not do this", reason="other-origin")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _matches(host: str, name: str) -> bool:
    if name.startswith("*."):
        return fnmatch.fnmatchcase(host.partition(".")[2], name[2:]) and bool(host.partition(".")[0])
    return host == name
