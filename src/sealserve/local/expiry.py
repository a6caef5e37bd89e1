"""When the owner's certificates of a running cluster end: what replicas show now, and what the local client shows."""

from __future__ import annotations

import contextlib
import socket
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509

from sealserve.addresses import parse_address
from sealserve.local.layout import Layout
from sealserve.local.state import ClusterState

SOON = timedelta(days=30)
_SECONDS = 2.0


def certificate_ends(state: ClusterState, layout: Layout) -> dict[str, datetime]:
    """The ends (UTC) of the certificates of ``replicas`` and of the local ``client``, as far as they are known.

    Empty where replicas make their certificates themselves: nobody looks at the dates of those.
    """
    if state.tls == "attested":
        return {}
    ends = {}
    with contextlib.suppress(OSError, ValueError):
        ends["replicas"] = _end(_shown(state, layout))
    if state.tls == "two-way":
        with contextlib.suppress(OSError, ValueError):
            ends["client"] = _end(layout.client_certificate.read_bytes())
    return ends


def ending_soon(ends: dict[str, datetime], now: datetime | None = None) -> list[str]:
    """A line for each that ends soon, or has ended, with what to do."""
    now = now or datetime.now(UTC)
    lines = []
    for whose, end in sorted(ends.items()):
        if end - now <= SOON:
            what = "The certificate that replicas show" if whose == "replicas" else "The client's certificate"
            verb = "has ended" if end <= now else "ends"
            lines.append(f"{what} {verb} on {end:%Y-%m-%d}: renew it (docs/deployment.md, Renewal).")
    return lines


def _shown(state: ClusterState, layout: Layout) -> bytes:
    """What a replica shows at the gateway, in PEM. It is shown before a client has to show anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if state.tls == "two-way":
        with contextlib.suppress(OSError):  # without it, the replica logs a client that has none
            context.load_cert_chain(layout.client_certificate, layout.client_key)
    gateway = parse_address(state.gateway)
    with (
        socket.create_connection((gateway.host, gateway.port), timeout=_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=state.server_name) as tls,
    ):
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"").encode()


def _end(pem: bytes) -> datetime:
    return x509.load_pem_x509_certificates(pem)[0].not_valid_after_utc
