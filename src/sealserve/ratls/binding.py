"""What a quote says besides which enclave made it: the 64 bytes of report data, computed over what they must be bound
to.

Each use has a label of its own, so that a quote made for one can never pass for the other. Every field has a fixed
length or a length before it, so that no two different inputs are hashed as the same bytes::

    report data = SHA-512( u8(len(label)) ‖ label ‖ field ‖ field ‖ … ‖ u64be(len(tail)) ‖ tail )

``docs/attestation-protocol.md`` gives it byte by byte, with test vectors. SHA-512 fills all 64 bytes; the report data
of Gramine's RA-TLS certificates ends in 32 zero bytes, so it cannot pass for one of these either.
"""

from __future__ import annotations

import hashlib

NONCE_SIZE = 32
SPKI_DIGEST_SIZE = 32
EXPORTER_SIZE = 32
REPORT_DATA_SIZE = 64

CLIENT_LABEL = b"sealserve/client-evidence/v1"
BROKER_LABEL = b"sealserve/broker-evidence/v2"

EXPORTER_LABEL = b"EXPORTER-Channel-Binding"
"""The exporter of RFC 9266 (``tls-exporter``): 32 bytes, no context. It is unique to one TLS 1.3 session."""


def client_report_data(nonce: bytes, spki_digest: bytes, claims: bytes) -> bytes:
    """What a replica's evidence for a client is bound to.

    :param nonce: the client's 32 fresh random bytes.
    :param spki_digest: SHA-256 of the SubjectPublicKeyInfo (DER) of the replica's TLS certificate.
    :param claims: the serialized ``sealserve.v1.Claims``, exactly as sent.
    :returns: 64 bytes.
    """
    return _report_data(CLIENT_LABEL, _fixed(nonce, NONCE_SIZE), _fixed(spki_digest, SPKI_DIGEST_SIZE), tail=claims)


def broker_report_data(nonce: bytes, spki_digest: bytes, exporter: bytes, request: bytes) -> bytes:
    """What an enclave's evidence for the key broker is bound to.

    :param nonce: the broker's 32 fresh random bytes.
    :param spki_digest: SHA-256 of the SubjectPublicKeyInfo (DER) of the enclave's TLS client certificate.
    :param exporter: 32 bytes of keying material of this TLS session under :data:`EXPORTER_LABEL`.
    :param request: the encoded request, exactly as sent.
    :returns: 64 bytes.
    """
    return _report_data(
        BROKER_LABEL,
        _fixed(nonce, NONCE_SIZE),
        _fixed(spki_digest, SPKI_DIGEST_SIZE),
        _fixed(exporter, EXPORTER_SIZE),
        tail=request,
    )


def _fixed(value: bytes, size: int) -> bytes:
    # A defect of the caller, not of a peer: whoever takes these from the wire checks their size there.
    if len(value) != size:
        raise ValueError(f"expected {size} bytes, got {len(value)}")
    return value


def _report_data(label: bytes, *fields: bytes, tail: bytes) -> bytes:
    digest = hashlib.sha512()
    digest.update(len(label).to_bytes(1, "big") + label)
    for field in fields:
        digest.update(field)
    digest.update(len(tail).to_bytes(8, "big") + tail)
    return digest.digest()
