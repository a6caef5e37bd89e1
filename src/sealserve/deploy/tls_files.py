"""TLS for a server with certificates instead of evidence: the files that the original's two scripts make.

``generate_oneway_ssl_config.sh DOMAIN`` and ``generate_twoway_ssl_config.sh DOMAIN CLIENT_DOMAIN`` of Intel's
confidential-computing-zoo leave a directory ``ssl_configure``::

    ssl.cfg                      what TensorFlow Serving's --ssl_config_file reads: SSLConfig as protobuf text
    server/key.pem, cert.pem     one-way: signed by itself, and what clients trust
    ca_key.pem, ca_cert.pem      two-way: who signs both sides
    client/key.pem, cert.pem     two-way: what a client shows

Here the keys are EC P-256 unless RSA is asked for, names are in the subject alternative name, where today's clients
look for them, and ``sealed/ssl.cfg`` is the one file that may leave the owner's machine: it holds the server's key.
"""

from __future__ import annotations

import io
import ipaddress
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from sealserve.addresses import is_dns_name
from sealserve.deploy.certificates import Identity, new_key
from sealserve.deploy.images.layout import TLS_DIRECTORY
from sealserve.errors import InputError
from sealserve.files import PRIVATE, PUBLIC, explain_os_error, partial_path, sync_directory, write_atomically
from sealserve.sealing import encrypt_file
from sealserve.secret import Secret

CONFIGURATION = "ssl.cfg"

_FILES = frozenset({CONFIGURATION, "server", "client", "sealed", "ca_key.pem", "ca_cert.pem"})


@dataclass(frozen=True)
class SealTo:
    """Under which wrap key ``ssl.cfg`` is sealed, and for which directory inside the enclave."""

    key: Secret
    mount: str = TLS_DIRECTORY


@dataclass(frozen=True)
class TlsRequest:
    """What is asked for.

    :ivar server: DNS names or IP addresses of the service; the first is the certificate's common name.
    :ivar client: the same of a client; None: clients show no certificate (one-way).
    """

    server: Sequence[str]
    client: str | None = None
    key_kind: Literal["ec", "rsa"] = "ec"
    validity: timedelta = timedelta(days=365)


def write_tls_files(
    request: TlsRequest, directory: Path, *, replace: bool = False, seal_to: SealTo | None = None
) -> list[Path]:
    """Make keys and certificates, and write the directory as a whole.

    :param replace: replace a directory that was made by this. :returns: the files written, ``ssl.cfg`` first.
    :raises InputError: a name is none, or the directory holds something (else).
    """
    for name in (*request.server, *([] if request.client is None else [request.client])):
        _check_name(name)
    _check_target(directory, replace=replace)
    files = _contents(request)
    beside = partial_path(directory)
    try:
        beside.mkdir(mode=0o700)
    except OSError as error:
        raise explain_os_error(error, directory, "create") from error
    try:
        for name, (content, mode) in files.items():
            (beside / name).parent.mkdir(mode=0o700, exist_ok=True)
            write_atomically(beside / name, content, mode=mode)
        if seal_to is not None:
            name = f"sealed/{CONFIGURATION}"
            (beside / "sealed").mkdir(mode=0o700)
            _seal(files[CONFIGURATION][0], beside / name, seal_to)
            files[name] = (b"", PUBLIC)
        _put_in_place(beside, directory)
    except OSError as error:
        raise explain_os_error(error, directory, "write") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return [directory / name for name in files]


def ssl_configuration(server: Identity, authority: Identity | None) -> str:
    """An SSLConfig as protobuf text, one line a field, as the original has it.

    :param authority: whose certificates clients have to show; None: they need none.
    """
    accepted = "" if authority is None else _quoted(authority.certificate_pem)
    return (
        f"server_key: '{_quoted(server.key_pem)}'\n"
        f"server_cert: '{_quoted(server.certificate_pem)}'\n"
        f"custom_ca: '{accepted}'\n"
        f"client_verify: {'false' if authority is None else 'true'}\n"
    )


def _quoted(pem: bytes) -> str:
    # PEM has nothing else that a quoted string would need escaped.
    return pem.decode("ascii").replace("\n", "\\n")


def _contents(request: TlsRequest) -> dict[str, tuple[bytes, int]]:
    first = request.server[0]
    if request.client is None:
        server = Identity.leaf(
            first, request.server, "server", validity=request.validity, key=new_key(request.key_kind)
        )
        return {
            CONFIGURATION: (ssl_configuration(server, None).encode(), PRIVATE),
            **_pair("server/key.pem", "server/cert.pem", server),
        }
    authority = Identity.authority(f"CA of {first}", validity=request.validity, key=new_key(request.key_kind))
    server = Identity.leaf(
        first, request.server, "server", validity=request.validity, issuer=authority, key=new_key(request.key_kind)
    )
    client = Identity.leaf(
        request.client,
        [request.client],
        "client",
        validity=request.validity,
        issuer=authority,
        key=new_key(request.key_kind),
    )
    return {
        CONFIGURATION: (ssl_configuration(server, authority).encode(), PRIVATE),
        **_pair("ca_key.pem", "ca_cert.pem", authority),
        **_pair("server/key.pem", "server/cert.pem", server),
        **_pair("client/key.pem", "client/cert.pem", client),
    }


def _pair(key_name: str, certificate_name: str, made: Identity) -> dict[str, tuple[bytes, int]]:
    return {key_name: (made.key_pem, PRIVATE), certificate_name: (made.certificate_pem, PUBLIC)}


def _seal(plaintext: bytes, target: Path, seal_to: SealTo) -> None:
    with target.open("w+b") as file:
        encrypt_file(io.BytesIO(plaintext), file, seal_to.key, f"{seal_to.mount}/{CONFIGURATION}")
        file.flush()
        os.fsync(file.fileno())


def _check_name(name: str) -> None:
    if is_dns_name(name.removeprefix("*.")) and not name.replace(".", "").isdigit():
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise InputError(
            f"{name!r} is neither a DNS name nor an IP address", hint="For example grpc.tf-serving.service.com."
        ) from None


def _check_target(directory: Path, *, replace: bool) -> None:
    try:
        present = {entry.name for entry in directory.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain_os_error(error, directory, "use") from error
    if directory.is_symlink() or not present <= _FILES:
        raise InputError(
            f"{directory} holds something else than TLS files: nothing in it was touched",
            hint="Name another directory with --directory.",
        )
    if present and not replace:
        raise InputError(
            f"{directory} is there already",
            hint="--replace makes keys and certificates anew: what trusts the old ones then needs the new ones.",
        )


def _put_in_place(beside: Path, directory: Path) -> None:
    aside = partial_path(directory)
    if directory.exists():
        directory.rename(aside)
    beside.rename(directory)
    sync_directory(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)
