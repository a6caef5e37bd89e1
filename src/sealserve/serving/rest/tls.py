"""TLS of the REST server, from memory: a private key never touches a disk."""

from __future__ import annotations

import ssl

from sealserve.errors import InputError
from sealserve.serving.model_files import memory_file, path_of, seal
from sealserve.serving.tls import ServerTls


def server_context(material: ServerTls) -> ssl.SSLContext:
    """TLS 1.2 and later, HTTP/1.1. :raises InputError: key or certificates are not usable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, material)
    if material.client_ca_pem is not None:
        try:
            context.load_verify_locations(cadata=material.client_ca_pem.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise InputError("the authority of the REST server's callers is not a certificate in PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED
        # No sessions to resume: a caller's certificate is looked at in every handshake.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def load_certificate(context: ssl.SSLContext, material: ServerTls) -> None:
    """Show its certificate in handshakes that begin from now on, in a thread in which none begins meanwhile.

    :raises InputError: key or certificate are not usable.
    """
    # OpenSSL takes paths only: a sealed file in memory has one that nobody outside can open.
    with memory_file("tls") as file:
        for part in (material.certificate_pem, b"\n", material.private_key_pem.reveal()):
            file.write(part)
        seal(file)
        try:
            context.load_cert_chain(path_of(file), password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise InputError(
                "the REST server's private key or its certificate is not PEM, is encrypted, or they are no pair"
            ) from error


def _no_password() -> bytes:
    """Without this OpenSSL would ask at the terminal for the password of an encrypted key."""
    return b""
