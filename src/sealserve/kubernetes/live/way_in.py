"""Whether clients come through the edge: it learns of new replicas seconds after they are ready, and a first client
could be too early.

A TLS connection is made, and nobody is trusted by it: whoever answers shows no evidence, and is told nothing.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sealserve.addresses import Address, parse_address
from sealserve.kubernetes.live.edge_state import ANY_NODE

PATIENCE = 15.0
_PAUSE = 0.5
_CONNECT_SECONDS = 2.0
_HANDSHAKE_SECONDS = 5.0
_IN_A_ROW = 8  # of several proxies each has to know of the replicas, and which one answers is left to chance
_MOST_TRIED = 4
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL})


@dataclass(frozen=True)
class WayIn:
    """A way through the edge.

    :ivar address: at which replicas answer; None if none is known of. :ivar tried: whether this machine could try.
    :ivar reason: why there is none, for people.
    """

    address: str | None
    tried: bool
    reason: str | None = None


def find_way(addresses: Sequence[str], server_name: str, *, patience: float = PATIENCE) -> WayIn:
    """The first of the addresses at which TLS connections come about, one after another without a failure.

    :param addresses: ``HOST:PORT``. :param server_name: of the replicas, by which edges find them.
    :param patience: seconds after which one that answers wrongly is given up.
    """
    known = [parse_address(address) for address in addresses]
    known = [address for address in known if address.host != ANY_NODE]
    outside = [address for address in known if not address.host.endswith(".svc")]
    if not outside:
        why = "this machine is taken to be outside of the cluster" if known else "no address is known yet"
        return WayIn(None, tried=False, reason=why)
    until = time.monotonic() + patience
    left, why = outside[:_MOST_TRIED], ""
    while True:
        for address in tuple(left):
            try:
                for _ in range(_IN_A_ROW):
                    _shake_hands(address, server_name)
            except _UnreachableError as error:
                left.remove(address)
                why = why or f"this machine does not reach {address} ({error})"
            except OSError as error:
                why = f"{address}: {error.strerror or error}"
            else:
                return WayIn(str(address), tried=True)
        if not left:
            return WayIn(None, tried=False, reason=why)
        if time.monotonic() >= until:
            return WayIn(None, tried=True, reason=why)
        time.sleep(_PAUSE)


class _UnreachableError(Exception):
    """Nothing says anything about the edge: this machine has no way there."""


def _shake_hands(address: Address, server_name: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        connection = socket.create_connection((address.host, address.port), timeout=_CONNECT_SECONDS)
    except OSError as error:
        if isinstance(error, TimeoutError | socket.gaierror) or error.errno in _NO_WAY:
            raise _UnreachableError(error.strerror or str(error)) from None
        raise
    with connection:
        connection.settimeout(_HANDSHAKE_SECONDS)
        with context.wrap_socket(connection, server_hostname=server_name):
            pass
