"""``--ssl_config_file``: an SSLConfig as protobuf text, with PEM inside."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from sealserve.errors import ConfigurationError, InputError
from sealserve.logs import event, get_logger
from sealserve.secret import Secret
from sealserve.serving.process.text_files import parse_text, read_text
from sealserve.serving.tls import ServerTls
from sealserve.wire.tensorflow_serving_config_pb2 import SSLConfig

_FLAG = "ssl_config_file"

_log = get_logger(__name__)


def read_tls_file(path: Path) -> ServerTls:
    """The TLS material that the file names, for gRPC and REST alike.

    :raises ConfigurationError: it is not usable.
    """
    config = parse_text(read_text(path, _FLAG), SSLConfig, path=path, flag=_FLAG, secret=True)
    for field in ("server_key", "server_cert"):
        if not getattr(config, field):
            raise ConfigurationError(f"--{_FLAG}: {path} has no {field}", hint="It is PEM, in quotes, with \\n in it.")
    if config.client_verify and not config.custom_ca:
        raise ConfigurationError(
            f"--{_FLAG}: {path} asks for client_verify and has no custom_ca",
            hint="Give the certificates that clients' certificates are signed by, as PEM.",
        )
    if config.custom_ca and not config.client_verify:
        event(_log, logging.WARNING, "client-certificates-not-asked-for", file=path, note="client_verify is false")
    if stat.S_IMODE(path.stat().st_mode) & 0o007:
        event(_log, logging.WARNING, "private-key-readable-by-others", file=path, note=f"run `chmod 600 {path}`")
    try:
        return ServerTls(
            Secret(config.server_key.encode()),
            config.server_cert.encode(),
            config.custom_ca.encode() if config.client_verify else None,
        )
    except InputError as error:
        raise ConfigurationError(f"--{_FLAG}: {path}: {error.message}", hint=error.hint) from error
