"""``sealserve tls``: keys and certificates for a server whose clients know it by certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sealserve.errors import InputError
from sealserve.logs import printable

_directory = click.Path(path_type=Path, readable=False)


@click.group(short_help="Make ssl.cfg, keys and certificates for plain servers.")
def tls() -> None:
    """Make TLS files for the unmodified server: ssl.cfg, keys and certificates.

    For replicas that attest themselves nothing of this is needed: they make their key inside the enclave.
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--replace", is_flag=True, help="Replace what an earlier run left in the directory."),
        click.option(
            "--mount",
            default="/tls",
            show_default=True,
            metavar="PATH",
            help="The directory in which the enclave will see the sealed ssl.cfg.",
        ),
        click.option(
            "--seal-key",
            type=_directory,
            metavar="FILE",
            help="Wrap key: also write sealed/ssl.cfg, the only one to give to the platform.",
        ),
        click.option("--rsa", "key_kind", flag_value="rsa", default=None, help="RSA keys of 3072 bits, not EC P-256."),
        click.option("--days", default=365, show_default=True, type=click.IntRange(1, 3650), help="Validity."),
        click.option("--also", multiple=True, metavar="NAME", help="Another name or IP address of the server."),
        click.option(
            "--directory",
            type=_directory,
            default=Path("ssl_configure"),
            show_default=True,
            help="Where to write.",
        ),
    ):
        command = option(command)
    return command


@tls.command(short_help="The client verifies the server.")
@click.argument("domain")
@_options
def one_way(domain: str, **options: Any) -> None:
    """Write TLS files for the server DOMAIN; clients trust server/cert.pem.

    They are those of generate_oneway_ssl_config.sh, with EC keys and with DOMAIN as subject alternative name.
    """
    _write(domain, None, **options)


@tls.command(short_help="Client and server verify each other.")
@click.argument("domain")
@click.argument("client_domain")
@_options
def two_way(domain: str, client_domain: str, **options: Any) -> None:
    """Write TLS files for the server DOMAIN and a client CLIENT_DOMAIN, both signed by ca_cert.pem.

    They are those of generate_twoway_ssl_config.sh, with EC keys and with the names as subject alternative names.
    """
    _write(domain, client_domain, **options)


def _write(
    domain: str,
    client: str | None,
    *,
    directory: Path,
    also: tuple[str, ...],
    days: int,
    key_kind: str | None,
    seal_key: Path | None,
    mount: str,
    replace: bool,
    as_json: bool,
) -> None:
    from datetime import timedelta

    from sealserve.deploy.tls_files import SealTo, TlsRequest, write_tls_files
    from sealserve.sealing import read_wrap_key

    if not mount.startswith("/"):
        raise InputError(f"the mount path {mount!r} is not absolute", hint="For example --mount /tls.")
    request = TlsRequest(
        (domain, *also), client, key_kind="rsa" if key_kind == "rsa" else "ec", validity=timedelta(days=days)
    )
    if seal_key is None:
        written = write_tls_files(request, directory, replace=replace)
    else:
        with read_wrap_key(seal_key) as key:
            written = write_tls_files(request, directory, replace=replace, seal_to=SealTo(key, mount))
    if as_json:
        click.echo(json.dumps({"directory": str(directory), "files": [str(path) for path in written]}))
        return
    click.echo(printable(f"wrote {directory}: {', '.join(str(path.relative_to(directory)) for path in written)}"))
    trusts, shows = ("ca_cert.pem", ", client/cert.pem and client/key.pem") if client else ("server/cert.pem", "")
    click.echo(f"clients need {trusts}{shows}; ssl.cfg holds the server's private key: keep it to yourself")
