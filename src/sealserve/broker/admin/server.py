"""The HTTPS server of the administration: its TLS, its limits, its start and stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web
from cryptography import x509

from sealserve.addresses import Address
from sealserve.broker.admin.app import Application, Services
from sealserve.broker.admin.authentication import Authenticator
from sealserve.broker.admin.door import Door
from sealserve.broker.admin.fleet import Fleet
from sealserve.broker.admin.health import Health
from sealserve.broker.admin.metrics import Metrics
from sealserve.broker.admin.protection import names_of
from sealserve.broker.admin.settings import AdminSettings
from sealserve.broker.grants import LiveGrants
from sealserve.broker.store import Store
from sealserve.broker.tally import Counts
from sealserve.errors import ConfigurationError
from sealserve.files import read_file, read_secret_file
from sealserve.http_log import library_log
from sealserve.logs import event, get_logger
from sealserve.ratls.listener import explain_listening

_log = get_logger(__name__)
_HANDSHAKE_SECONDS = 10.0
_IDLE_SECONDS = 15.0
_STALL_SECONDS = 30.0
_CONNECTIONS = 200
_THREADS = 3


class AdminServer:
    """Administration of one broker over HTTPS.

    :param certificate: PEM, the server's own first. :param private_key: PEM, mode 0600.
    :param counts: gives what all workers of the broker have counted. :param connections: that enclaves may have open.
    :raises ConfigurationError: a certificate cannot be used. :raises KeyFileError: others can read the key.
    """

    def __init__(
        self,
        settings: AdminSettings,
        *,
        certificate: Path,
        private_key: Path,
        store: Store,
        grants: LiveGrants,
        counts: Callable[[], Counts],
        connections: int,
    ) -> None:
        self._settings = settings
        self._tls, own = _tls(settings, certificate, private_key)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="admin")
        self._services = Services(
            store=store,
            grants=grants,
            fleet=Fleet(store),
            health=Health(store, grants, counts),
            metrics=Metrics(grants, counts, connections=connections),
            authenticator=Authenticator(settings, lambda: grants.state),
            names={*names_of(own), *settings.names, "localhost"},
            threads=self._threads,
            open_metrics=settings.metrics == "open",
        )
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self.address = Address("", 0)

    async def start(self) -> None:
        """Listen. :raises MachineError: the address cannot be used."""
        self._runner = web.AppRunner(
            Application(self._services).make(),
            handle_signals=False,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=0,
            logger=library_log(__name__),
        )
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the application was not set up")
        address = self._settings.address
        try:
            loop = asyncio.get_running_loop()
            family, *_, place = (await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))[0]
            self._server = await loop.create_server(
                self._runner.server,
                sock=Door(place, family, most=_CONNECTIONS, stall_seconds=_STALL_SECONDS),
                ssl=self._tls,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:
            raise explain_listening(error, address) from error
        self.address = Address(*self._server.sockets[0].getsockname()[:2])
        event(
            _log,
            logging.INFO,
            "administration-listening",
            address=str(self.address),
            tokens=self._settings.tokens,
            client_certificates=self._settings.clients is not None,
            metrics=self._settings.metrics,
        )

    async def stop(self) -> None:
        """End what runs, within a second."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _tls(settings: AdminSettings, certificate: Path, private_key: Path) -> tuple[ssl.SSLContext, x509.Certificate]:
    read_secret_file(private_key).wipe()  # for the errors: that it is there, and that others cannot read it
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # No sessions to resume: a client certificate is looked at in every handshake.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        own = x509.load_pem_x509_certificate(read_file(certificate))
        context.load_cert_chain(certificate, private_key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"{certificate} and {private_key} are no certificate and its key",
            hint="Both are in PEM, the server's own certificate first, the key without a password.",
        ) from error
    if settings.clients is not None:
        authority = settings.clients.authority
        try:
            context.load_verify_locations(cadata=read_file(authority).decode())
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(f"{authority} holds no certificate in PEM") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context, own


def _no_password() -> bytes:
    """Without this OpenSSL would ask at the terminal for the password of an encrypted key."""
    return b""
