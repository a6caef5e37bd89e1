"""Protocol version 1, Gramine's secret provisioning, on one connection, the broker's side.

Read from Gramine's ``tools/sgx/ra-tls/secret_prov_*.c``. The evidence stands in the enclave's RA-TLS certificate, so
it is bound to the TLS key and to no nonce: it says which enclave made the key, and not when. The enclave sends 35
bytes, the broker answers with 37 bytes, a 32-bit big-endian size and the secret. A refused enclave gets no answer.
"""

from __future__ import annotations

import asyncio

from sealserve.broker.decisions import Decider, Session
from sealserve.broker.messages import ProtocolError
from sealserve.broker.refusals import NoClientCertificateError
from sealserve.ratls.stream import TlsStream

REQUEST = b"SECRET_PROVISION_RA_TLS_REQUEST_V1\0"
RESPONSE = b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0"


async def converse(stream: TlsStream, decider: Decider, *, step_seconds: float) -> None:
    """Serve one enclave.

    :param step_seconds: how long the enclave may take to send its request, and to take the answer.
    :raises ProtocolError: the request is another one. :raises TimeoutError: it took longer.
    :raises TlsConnectionError: the connection broke.
    """
    certificate = stream.peer_certificate
    if certificate is None:
        await decider.refuse(stream.peer_address, 1, NoClientCertificateError())
        return
    async with asyncio.timeout(step_seconds):
        request = await stream.read_exactly(len(REQUEST))
    if request != REQUEST:
        raise ProtocolError("the request is not the one of protocol version 1")
    secret = await decider.version_1(Session(stream.peer_address, certificate))
    if secret is None:
        return
    with secret:
        async with asyncio.timeout(step_seconds):
            await stream.finish(RESPONSE + len(secret).to_bytes(4, "big"), secret.reveal())
