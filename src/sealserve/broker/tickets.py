"""No TLS 1.3 session tickets.

Enclaves of Gramine 1.8 fail with any TLS 1.3 server that sends tickets, which OpenSSL does unless told otherwise, and
pyOpenSSL has no call to tell it (``SSL_CTX_set_num_tickets``; ``OP_NO_TICKET`` only makes them useless). OpenSSL's
own configuration has a setting for it, which is read once, when the library starts. So this module imports nothing
that starts the library, and a broker process calls :func:`forbid` first.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from OpenSSL import SSL

_VARIABLE = "OPENSSL_CONF"


def forbid() -> bool:
    """Have OpenSSL, when it starts, send no tickets.

    :returns: whether that will work: not if OpenSSL runs already, or if the operator gave a configuration of its own.
    """
    if _VARIABLE in os.environ or "cryptography.hazmat.bindings._rust" in sys.modules:
        return False
    os.environ[_VARIABLE] = str(Path(__file__).with_name("openssl.cnf"))
    return True


def are_sent(server: SSL.Context) -> bool:
    """Whether a server with these settings sends tickets: finds out by a handshake with itself, in memory."""
    from OpenSSL import SSL

    client_settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_settings.set_min_proto_version(SSL.TLS1_3_VERSION)
    client, serving = SSL.Connection(client_settings, None), SSL.Connection(server, None)
    client.set_connect_state()
    serving.set_accept_state()
    _shake(client, serving)
    _shake(serving, client)
    _shake(client, serving)
    serving.do_handshake()
    # The handshake is over, and nothing was written: what the server still wants to send can only be tickets.
    try:
        return bool(serving.bio_read(1))
    except SSL.WantReadError:
        return False


def _shake(speaker: SSL.Connection, listener: SSL.Connection) -> None:
    """One flight of a handshake."""
    from OpenSSL import SSL

    with contextlib.suppress(SSL.WantReadError):
        speaker.do_handshake()
    listener.bio_write(speaker.bio_read(1 << 16))
