"""One-way and two-way TLS: what the owner makes for replicas and clients, or has already.

Private keys lie with their owner, mode 0600. The replicas' reaches them by the key broker alone, after attestation.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from sealserve.broker.administration import BrokerAdministration
from sealserve.client import OwnerCertificates
from sealserve.client.tls import client_context
from sealserve.deploy import Deployment
from sealserve.errors import ConfigurationError, InputError, KeyFileError
from sealserve.files import read_file, read_secret_file, write_atomically
from sealserve.local.certificates import (
    OWNER_VALIDITY,
    ensure_authority,
    ensure_client_certificate,
    ensure_server_certificate,
)
from sealserve.local.layout import Layout
from sealserve.secret import Secret

KEY_NAME = "server-tls"
"""The server certificate's private key's name at the broker."""

_LIMIT = 32 * 1024  # of a grant's certificates


def prepare_tls(deployment: Deployment, layout: Layout) -> None:
    """Make what is missing, look at what the owner gives, and put the client's part where clients find it.

    :raises ConfigurationError: what the owner gives would be refused by clients. :raises InputError: a file of it
        cannot be read. :raises KeyFileError: a key cannot be used, or others can read it.
    """
    tls = deployment.tls
    if tls.mode == "attested":
        return
    if tls.authority is None:
        _make_server_certificate(deployment, layout)
    roots = tls.authority or layout.server_authority
    write_atomically(layout.client_roots, read_file(roots, limit=_LIMIT))
    _require_acceptable(deployment, layout)
    if tls.mode == "two-way" and tls.client_authority is None:
        ensure_authority(
            *(layout.client_authority_key, layout.client_authority),
            name=deployment.name,
            of="client",
            renew_before=OWNER_VALIDITY,
        )
        ensure_client_certificate(
            layout.client_key,
            layout.client_certificate,
            authority_key=layout.client_authority_key,
            authority=layout.client_authority,
            name=f"client.{deployment.name}",
        )


def granted_tls(
    deployment: Deployment, layout: Layout, administration: BrokerAdministration
) -> dict[str, object] | None:
    """The section ``tls`` of the replicas' grant; the private key goes into the broker's store.

    :returns: None where replicas make their keys themselves.
    """
    tls = deployment.tls
    if tls.mode == "attested":
        return None
    certificate, key = _server_files(deployment, layout)
    with read_secret_file(key) as pem, _pkcs8(pem, key) as value:
        held = administration.ensure_key(KEY_NAME, value, kind="tls")
    document: dict[str, object] = {
        "certificate": _certificates(certificate),
        "key": held.name,
        "key_version": held.version,
    }
    if tls.mode == "two-way":
        document["client_authority"] = _certificates(tls.client_authority or layout.client_authority)
    return document


def client_certificates(deployment: Deployment, layout: Layout) -> OwnerCertificates | None:
    """What a client of the deployment checks servers by, beside their evidence, and shows them.

    :returns: None where evidence is all there is. It shows nothing where the owner brought the clients' authority.
    """
    tls = deployment.tls
    if tls.mode == "attested":
        return None
    if tls.mode == "two-way" and tls.client_authority is None:
        return OwnerCertificates(layout.client_roots, layout.client_certificate, layout.client_key)
    return OwnerCertificates(layout.client_roots)


def _make_server_certificate(deployment: Deployment, layout: Layout) -> None:
    ensure_authority(
        *(layout.server_authority_key, layout.server_authority),
        name=deployment.name,
        of="server",
        renew_before=OWNER_VALIDITY,
    )
    # Replicas that run already follow a renewed certificate if its key is the same.
    ensure_server_certificate(
        layout.server_key,
        layout.server_certificate,
        authority_key=layout.server_authority_key,
        authority=layout.server_authority,
        hosts=[deployment.tls.server_name],
        subject=deployment.tls.server_name,
        validity=OWNER_VALIDITY,
        keep_key=True,
    )


def _server_files(deployment: Deployment, layout: Layout) -> tuple[Path, Path]:
    tls = deployment.tls
    return tls.certificate or layout.server_certificate, tls.private_key or layout.server_key


def _certificates(path: Path) -> str:
    text = read_file(path, limit=_LIMIT)
    try:
        found = x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise ConfigurationError(f"{path} holds no certificate in PEM", hint="Check the path.") from error
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)


def _pkcs8(pem: Secret, path: Path) -> Secret:
    try:
        key = load_pem_private_key(bytes(pem.reveal()), password=None)
    except (ValueError, TypeError):
        key = None  # not chained: the text of the error could quote the key
    if key is None:
        raise KeyFileError(f"{path} is no private key in PEM without a password", hint="Give the certificate's key.")
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _require_acceptable(deployment: Deployment, layout: Layout) -> None:
    """Make one TLS session in memory, as a client and a replica will.

    :raises ConfigurationError: the client refuses the server, or the files do not belong together.
    """
    certificate, key = _server_files(deployment, layout)
    read_secret_file(key).wipe()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"{certificate} and {key} cannot be used as a server's certificate and its key",
            hint="Both must be PEM and belong together, the server's own certificate first; the key has no password.",
        ) from error
    client = client_context(OwnerCertificates(layout.client_roots), "h2", evidence=True)
    try:
        _shake_hands(client, server, deployment.tls.server_name)
    except ssl.SSLCertVerificationError as error:
        raise ConfigurationError(
            f"clients would not accept {certificate} for the name {deployment.tls.server_name}: {error.verify_message}",
            hint="Look at tls.certificate, tls.authority and tls.server_name in deployment.yaml.",
        ) from error
    except ssl.SSLError as error:
        raise InputError(f"{certificate} makes no TLS session: {error.reason or error}") from error


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname=name)
    answering = server.wrap_bio(there, back, server_side=True)
    open_sides = [asking, answering]
    for _ in range(8):
        for side in list(open_sides):
            try:
                side.do_handshake()
                open_sides.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not open_sides:
            return
    raise ssl.SSLError("the handshake does not end")
