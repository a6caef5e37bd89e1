"""Protocol version 2 on one connection, the broker's side (``docs/broker-protocol.md``).

Broker: nonce. Enclave: evidence and request. Broker: grant or refusal. Each step has its own time limit.
"""

from __future__ import annotations

import asyncio
import secrets

from sealserve.broker.decisions import Decider, Session
from sealserve.broker.messages import (
    MAX_EVIDENCE,
    Granted,
    Hello,
    ProtocolError,
    Refused,
    encode,
    read_frame,
    write_frame,
)
from sealserve.broker.refusals import NoClientCertificateError
from sealserve.ratls.binding import EXPORTER_LABEL, EXPORTER_SIZE, NONCE_SIZE
from sealserve.ratls.stream import TlsStream

TLS_VERSION = "TLSv1.3"


async def converse(stream: TlsStream, decider: Decider, *, step_seconds: float) -> None:
    """Serve one enclave.

    :param step_seconds: how long the enclave may take to take the nonce and send its message, and to take the answer.
    :raises TimeoutError: it took longer. :raises TlsConnectionError: the connection broke.
    """
    peer = stream.peer_address
    certificate = stream.peer_certificate
    if certificate is None:
        await _send(stream, await decider.refuse(peer, 2, NoClientCertificateError()), step_seconds)
        return
    if stream.tls_version != TLS_VERSION:
        # Before TLS 1.3 the exporter is unique to a session only with extensions that not every peer has.
        error = ProtocolError(f"protocol version 2 needs {TLS_VERSION}, and the peer speaks {stream.tls_version}")
        await _send(stream, await decider.refuse(peer, 2, error), step_seconds)
        return
    session = Session(
        peer,
        certificate,
        exporter=stream.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE),
        nonce=secrets.token_bytes(NONCE_SIZE),
    )
    try:
        async with asyncio.timeout(step_seconds):
            await write_frame(stream, encode(Hello(nonce=session.nonce)))
            frame = await read_frame(stream, MAX_EVIDENCE)
    except ProtocolError as error:
        await _send(stream, await decider.refuse(peer, 2, error), step_seconds)
        return
    await _send(stream, await decider.version_2(session, frame), step_seconds)


async def _send(stream: TlsStream, message: Granted | Refused, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await write_frame(stream, encode(message), last=True)
