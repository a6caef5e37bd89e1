"""The key broker as a process: settings in, a listening TLS server, a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from sealserve.addresses import Address
from sealserve.broker import tickets, version1, version2
from sealserve.broker.audit_writer import AuditWriter
from sealserve.broker.decisions import Decider
from sealserve.broker.grants import HeldGrant, LiveGrants
from sealserve.broker.messages import ALPN
from sealserve.broker.renewal import keep_collateral_fresh
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store import Store
from sealserve.broker.strangers import SUMMARY_SECONDS
from sealserve.broker.tally import Counts, Tally, total
from sealserve.errors import ConfigurationError, KeyFileError, SealserveError
from sealserve.evidence import AppraisalPolicy
from sealserve.files import read_file, read_secret_file
from sealserve.logs import event, get_logger
from sealserve.notify import notify
from sealserve.ratls.contexts import server_context
from sealserve.ratls.listener import TlsServer, serve
from sealserve.ratls.stream import TlsStream

if TYPE_CHECKING:
    from sealserve.broker.admin.server import AdminServer

_log = get_logger(__name__)
GRACE_SECONDS = 5.0
"""In which connections may finish what they do when a broker stops."""
_TELL_SECONDS = 0.5
_LOOK_AGAIN_SECONDS = 2.0


class Broker:
    """A key broker. Making one opens the store, reads and checks everything that the settings name, and writes nothing.

    :param worker: which of the broker's workers it is; the first has the administration.
    :param tally: what all of them count.
    :raises ConfigurationError: a setting, a policy or a certificate is not valid.
    :raises KeyFileError: a key file is missing, has the wrong size, or is readable by others.
    :raises StoreMissingError: there is no store. :raises WrongMasterKeyError: its master key is another.
    :raises StoreTamperedError: the store was changed by somebody else.
    """

    def __init__(self, settings: BrokerSettings, *, worker: int = 0, tally: Tally | None = None) -> None:
        self._settings = settings
        self._worker = worker
        self._tally = tally or Tally(1)
        self._context = _context(settings)
        self._server: TlsServer | None = None
        self._audit: AuditWriter | None = None
        self._decider: Decider | None = None
        self._tasks: list[asyncio.Task[None]] = []
        before = self._tally.read(worker)
        self._handshakes_before = before.handshakes
        before.statistics.audit_failure = None  # that was another process's
        self.statistics = before.statistics
        self._store = settings.open_store()
        try:
            self._grants = LiveGrants(self._store)
            self._admin = self._make_admin()
        except BaseException:
            self._store.close()
            raise

    @property
    def grants(self) -> Mapping[str, HeldGrant]:
        """What it grants now, by deployment."""
        return self._grants.current()

    @property
    def revision(self) -> int:
        """The store's revision that it goes by."""
        return self._grants.revision

    @property
    def store(self) -> Store:
        """Its store."""
        return self._store

    @property
    def address(self) -> Address:
        """Where it listens, once started."""
        if self._server is None:
            raise RuntimeError("the broker was not started")
        return self._server.address

    @property
    def admin_address(self) -> Address | None:
        """Where its administration listens, once started; none if it has none."""
        return None if self._admin is None else self._admin.address

    def close(self) -> None:
        """Close the store of a broker that was not started."""
        self._store.close()

    async def start(self, sockets: Sequence[socket.socket] = ()) -> None:
        """Listen, and follow the store's changes.

        :param sockets: that listen already, and that other workers have, too.

        :raises AuditTamperedError: the audit chain was changed. :raises StoreUnavailableError: the store cannot be
            written, for example because its disk is full. :raises AddressInUseError: another process listens there.
        """
        limits = self._settings.limits
        records, head = await asyncio.to_thread(self._look_at_store)
        event(_log, logging.INFO, "store-opened", store=self._store.name, audit_records=records, audit_head=head)
        self._audit = AuditWriter(self._store, broker=f"{socket.gethostname()}:{os.getpid()}")
        self._decider = Decider(self._grants.current, self._audit, self.statistics)
        try:
            self._server = await serve(
                self._settings.address,
                self._context,
                self._converse,
                limits=limits.for_listener(self._tally.workers),
                sockets=sockets,
            )
            if self._admin is not None:
                await self._admin.start()
        except BaseException:
            if self._server is not None:
                await self._server.close(grace=0)
            if self._admin is not None:
                await self._admin.stop()
            self._store.close()
            raise
        self._tasks = [
            asyncio.create_task(self._grants.watch()),
            asyncio.create_task(_summarise(self._decider)),
            asyncio.create_task(keep_collateral_fresh(self._policies)),
            asyncio.create_task(self._tell()),
            asyncio.create_task(self._look_again()),
        ]
        event(_log, logging.INFO, "broker-listening", address=str(self.address), deployments=list(self.grants))

    async def stop(self) -> None:
        """Finish what runs, within a few seconds, sign the audit chain's end, and close the store."""
        if self._server is not None:
            await self._server.close(grace=GRACE_SECONDS)
        if self._admin is not None:
            await self._admin.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._audit is not None and self._decider is not None:
            self._decider.close()
            await self._decider.summarise_strangers()
            try:
                await self._audit.close()
            except SealserveError as error:
                event(_log, logging.ERROR, "audit-failed", reason=error, hint=error.hint)
        self._store.close()

    async def run(self, sockets: Sequence[socket.socket] = (), *, ready: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT.

        :param sockets: see :meth:`start`. :param ready: called when it serves; tells a supervisor if not given.
        """
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the keys
        _allow_open_files(self._settings.limits.connections + 100)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await self.start(sockets)
        # What was made until now stays: the garbage collector need not look at it again and again, nor at every
        # connection that is under way each time that some hundred objects were made.
        gc.freeze()
        gc.set_threshold(20_000, 50, 50)
        try:
            self._warn()
            if ready is not None:
                ready()
            else:
                notify(READY=1, STATUS=f"listening at {self.address}")
            await stopping.wait()
            if ready is None:
                notify(STOPPING=1)
        finally:
            await self.stop()
            event(_log, logging.INFO, "broker-stopped")

    def _look_at_store(self) -> tuple[int, str]:
        self._store.probe_audit(durable=True)
        return self._store.audit_head()

    def _policies(self) -> list[AppraisalPolicy]:
        return list({id(grant.policy): grant.policy for grant in self.grants.values()}.values())

    def _warn(self) -> None:
        speaks_version_1 = any(grant.version_1 is not None for grant in self.grants.values())
        if speaks_version_1 and tickets.are_sent(self._context):
            event(
                _log,
                logging.WARNING,
                "session-tickets-sent",
                hint="Enclaves of Gramine 1.8 fail over TLS 1.3 with a server that sends them: start the broker with "
                "`sealserve broker run`, and without OPENSSL_CONF.",
            )

    def _make_admin(self) -> AdminServer | None:
        settings = self._settings.admin
        if settings is None or self._worker != 0:
            return None
        from sealserve.broker.admin.server import AdminServer  # so that others do not load an HTTP server

        return AdminServer(
            settings,
            certificate=settings.certificate or self._settings.certificate,
            private_key=settings.private_key or self._settings.private_key,
            store=self._store,
            grants=self._grants,
            counts=self.counts,
            connections=self._settings.limits.connections,
        )

    def _counts(self) -> Counts:
        if self._server is None:
            return Counts(self.statistics, 0, self._handshakes_before)
        handshakes = self._handshakes_before + self._server.handshakes
        return Counts(self.statistics, self._server.connections, handshakes)

    def counts(self) -> Counts:
        """What all workers of this broker have counted. For any thread: what changes meanwhile is copied at once."""
        ours = self._counts()
        self._tally.write(self._worker, ours)  # what was told is never taken back, even if this process ends now
        others = (self._tally.read(worker) for worker in range(self._tally.workers) if worker != self._worker)
        return total([ours, *others])

    async def _tell(self) -> None:
        while True:
            self._tally.write(self._worker, self._counts())
            await asyncio.sleep(_TELL_SECONDS)

    async def _look_again(self) -> None:
        """After a record that could not be written: find out when records can be written again, without one."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            if self.statistics.audit_failure is not None:
                with contextlib.suppress(SealserveError):
                    await asyncio.to_thread(self._store.probe_audit, durable=True)
                    self.statistics.audit_failure = None

    async def _converse(self, stream: TlsStream) -> None:
        if self._decider is None:
            raise RuntimeError("the broker was not started")
        protocol = version2 if stream.alpn == ALPN else version1
        await protocol.converse(stream, self._decider, step_seconds=self._settings.limits.step_seconds)


async def _summarise(decider: Decider) -> None:
    while True:
        await asyncio.sleep(SUMMARY_SECONDS)
        await decider.summarise_strangers()


def _context(settings: BrokerSettings) -> SSL.Context:
    try:
        chain = x509.load_pem_x509_certificates(read_file(settings.certificate))
    except ValueError as error:
        raise ConfigurationError(
            f"{settings.certificate} holds no PEM certificate", hint="Put the broker's own certificate first."
        ) from error
    return server_context(chain, _private_key(settings.private_key), request_client_certificate=True, alpn=[ALPN])


def _private_key(path: Path) -> PrivateKeyTypes:
    with read_secret_file(path) as pem:
        try:
            return load_pem_private_key(bytes(pem.reveal()), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # Not chained: the text of the error could quote the key.
            problem = f"{path} holds no private key in PEM without a password"
    raise KeyFileError(problem, hint="Give the TLS key of the broker's certificate.")


def _allow_open_files(wanted: int) -> None:
    """Every connection takes a file descriptor, and the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            event(
                _log,
                logging.WARNING,
                "few-open-files-allowed",
                allowed=most,
                wanted=wanted,
                hint="Raise the hard limit of open files (LimitNOFILE= of systemd, ulimit -Hn), or lower "
                "limits: connections.",
            )
