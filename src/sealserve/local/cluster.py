"""One machine's cluster: key broker, replicas and gateway as processes under one supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from sealserve.addresses import Address
from sealserve.deploy import Deployment
from sealserve.errors import MachineError, SealserveError
from sealserve.evidence import ensure_simulated_platform
from sealserve.files import write_atomically
from sealserve.gateway import ACCESS_LOG, PID_FILE, GatewayPort, check_configuration, render_nginx, worker_user
from sealserve.local.child import ProcessSpec
from sealserve.local.commands import broker_command, nginx_command, replica_command
from sealserve.local.diagnosis import find_complaint
from sealserve.local.events import Event, Listener
from sealserve.local.leftovers import empty_directory
from sealserve.local.ports import ReservedPort, require_free
from sealserve.local.prepare import PreparedCluster
from sealserve.local.proc import boot_id, facts_of
from sealserve.local.state import ClusterState, ProcessState, remove_state, write_state
from sealserve.local.supervised import RestartPolicy, Supervised
from sealserve.local.supervisor import Supervisor

_COLLATERAL_INTERVAL = 6 * 3600.0
_COMPLAINT_INTERVAL = 0.25


class LocalCluster:
    """A running cluster; see :func:`run_cluster`."""

    def __init__(
        self,
        prepared: PreparedCluster,
        *,
        listener: Listener = lambda _: None,
        file: Path | None = None,
        policy: RestartPolicy | None = None,
    ) -> None:
        self.prepared = prepared
        self._file = file
        self._listener = listener
        self._freshness: asyncio.Task[None] | None = None
        self._started_at = time.time()
        self._phase: Literal["starting", "running", "stopping"] = "starting"
        count = prepared.deployment.replicas.count
        self._ports = [ReservedPort() for _ in range(count)]
        self._rest_ports = [ReservedPort() for _ in range(count if prepared.rest is not None else 0)]
        self.supervisor = Supervisor(self._stages(), listener=self._hear, policy=policy)

    @property
    def deployment(self) -> Deployment:
        return self.prepared.deployment

    @property
    def gateway(self) -> Address:
        """Where clients connect to."""
        return self.prepared.gateway.reachable_here()

    @property
    def rest(self) -> Address | None:
        """Where clients that speak REST connect to; None if there is no REST."""
        return None if self.prepared.rest is None else self.prepared.rest.reachable_here()

    @property
    def broker(self) -> Address:
        """Where replicas ask for keys."""
        return self.prepared.broker.reachable_here()

    @property
    def replicas(self) -> tuple[Address, ...]:
        """Where the replicas themselves listen, behind the gateway."""
        return tuple(port.address for port in self._ports)

    def process(self, name: str) -> Supervised:
        """The process ``name``: ``broker``, ``replica-1`` and so on, ``gateway``.

        :raises KeyError: there is none.
        """
        return {process.spec.name: process for process in self.supervisor.processes}[name]

    async def start(self) -> None:
        """Start everything and return when it is ready. If this raises, :meth:`stop` is still to be called.

        :raises SealserveError: a process refused to start, or the broker cannot work.
        """
        self._freshness = asyncio.create_task(self._keep_collateral_fresh())
        starting = asyncio.create_task(self.supervisor.start())
        failing = asyncio.create_task(self._broker_fails())
        try:
            await asyncio.wait([starting, failing], return_when=asyncio.FIRST_COMPLETED)
            await (starting if starting.done() else failing)
        finally:
            starting.cancel()
            failing.cancel()
        self._phase = "running"
        self.write_state()

    async def _broker_fails(self) -> None:
        """Look for what keeps the broker from deciding (a full disk, say), which it tells its own log only.

        Replicas are told that it cannot answer now, and would ask again for minutes.

        :raises MachineError: with what the broker says.
        """
        broker = self.process("broker")
        while True:
            await asyncio.sleep(_COMPLAINT_INTERVAL)
            complaint = find_complaint(broker.child.last_lines) if broker.child else None
            if complaint is not None:
                message, hint = complaint
                raise MachineError(
                    f"the key broker cannot decide: {message}", hint=hint or f"Its log is {broker.spec.log}."
                )

    async def stop(self) -> None:
        """Stop the gateway, the replicas and the broker, in this order, and forget the state.

        Cancelling this kills what has not stopped yet.
        """
        self._phase = "stopping"
        self.write_state()
        if self._freshness is not None:
            self._freshness.cancel()
        stopping = asyncio.create_task(self.supervisor.stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            # The loop must not be closed before asyncio has heard of the processes' end: it would complain of each.
            self.supervisor.kill()
            await stopping
            raise
        finally:
            for port in (*self._ports, *self._rest_ports):
                port.close()
            remove_state(self.prepared.layout)
            empty_directory(self.prepared.layout.temporary)

    async def _keep_collateral_fresh(self) -> None:
        """Re-issue the simulated platform's collateral before it expires, as long as the cluster runs."""
        while True:
            await asyncio.sleep(_COLLATERAL_INTERVAL)
            with contextlib.suppress(SealserveError):
                await asyncio.to_thread(ensure_simulated_platform, self.prepared.layout.simulated_platform)

    def write_state(self) -> None:
        """Write ``state.json``. A full disk must not stop a cluster that runs, so that a failure is passed over."""
        own = facts_of(os.getpid())
        with contextlib.suppress(SealserveError):
            write_state(
                self.prepared.layout,
                ClusterState(
                    deployment=self.deployment.name,
                    file=self._file,
                    phase=self._phase,
                    boot=boot_id(),
                    supervisor=os.getpid(),
                    supervisor_ticks=own.started if own else 0,
                    started_at=self._started_at,
                    broker=str(self.broker),
                    gateway=str(self.gateway),
                    rest=None if self.rest is None else str(self.rest),
                    server_name=self.deployment.tls.server_name,
                    tls=self.deployment.tls.mode,
                    model=self.deployment.model.name,
                    model_version=self.prepared.model.version,
                    processes=tuple(_process_state(process) for process in self.supervisor.processes),
                ),
            )

    def _hear(self, event: Event) -> None:
        self.write_state()
        self._listener(event)

    def _stages(self) -> list[list[ProcessSpec]]:
        layout, tls = self.prepared.layout, self.deployment.tls
        broker = ProcessSpec(
            name="broker",
            role="broker",
            command=broker_command(layout.broker_configuration),
            log=layout.log("broker"),
            working_directory=layout.owner,
            before_start=lambda: _require_broker_port(self.prepared.broker),
        )
        replicas = [
            ProcessSpec(
                name=f"replica-{number}",
                role="replica",
                command=replica_command(
                    layout,
                    name=f"replica-{number}",
                    listen=port.address,
                    rest_listen=rest.address if rest is not None else None,
                    broker=self.broker,
                    deployment=self.deployment.name,
                    server_name=tls.server_name,
                ),
                log=layout.log(f"replica-{number}"),
                working_directory=layout.platform,
                environment={"TMPDIR": str(layout.temporary)},
            )
            for number, (port, rest) in enumerate(zip_longest(self._ports, self._rest_ports), 1)
        ]
        return [[broker], replicas, [self._gateway()]]

    def _gateway(self) -> ProcessSpec:
        layout, nginx = self.prepared.layout, self.prepared.nginx
        pid_file = layout.nginx / PID_FILE
        rest: GatewayPort | None = None
        if self.prepared.rest is not None:
            rest = GatewayPort(self.prepared.rest, [port.address for port in self._rest_ports])

        def prepare() -> None:
            require_free(self.prepared.gateway, setting="gateway.listen")
            if rest is not None:
                require_free(rest.listen, setting="gateway.rest_listen")
            pid_file.unlink(missing_ok=True)
            text = render_nginx(
                nginx=nginx,
                grpc=GatewayPort(self.prepared.gateway, self.replicas),
                rest=rest,
                server_name=self.deployment.tls.server_name,
                runtime_dir=layout.nginx,
                user=worker_user(),
            )
            write_atomically(layout.nginx_configuration, text)
            check_configuration(nginx, layout.nginx_configuration, layout.nginx)

        def listens(pid: int) -> bool:
            # nginx writes this file once it holds its ports.
            with contextlib.suppress(OSError):
                return pid_file.read_text().strip() == str(pid)
            return False

        return ProcessSpec(
            name="gateway",
            role="gateway",
            command=nginx_command(nginx, layout),
            log=layout.log("gateway"),
            working_directory=layout.nginx,
            start_timeout=15.0,
            # SIGQUIT lets open connections finish, for worker_shutdown_timeout at most; SIGTERM ends the workers too.
            stop_signal=signal.SIGQUIT,
            orphan_signal=signal.SIGTERM,
            is_ready=listens,
            before_start=prepare,
            own_logs=(layout.nginx / ACCESS_LOG,),
        )


def _require_broker_port(address: Address) -> None:
    require_free(address, setting="broker.listen")


def _process_state(process: Supervised) -> ProcessState:
    child = process.child
    return ProcessState(
        name=process.spec.name,
        role=process.spec.role,
        phase=process.phase,
        pid=child.pid if child else None,
        started_ticks=child.started_ticks if child else None,
        attempt=process.attempt,
        since=process.since,
        ready_seconds=process.ready_seconds,
        status=process.status,
        last_error=process.last_error,
        log=process.spec.log,
    )


@contextlib.asynccontextmanager
async def run_cluster(
    prepared: PreparedCluster,
    *,
    listener: Listener = lambda _: None,
    file: Path | None = None,
    policy: RestartPolicy | None = None,
) -> AsyncIterator[LocalCluster]:
    """Run a cluster for the length of a block; it is ready when the block begins and gone when the block has ended.

    The working directory must be locked by the caller (:func:`sealserve.local.state.cluster_lock`). Has to run in the
    main thread, or another one that lives as long as the cluster: the kernel ties the processes to it.

    :param listener: told what happens, in the event loop's thread; it must not block and must not raise.
    :param file: the ``deployment.yaml``, for those who ask for the state.
    :raises SealserveError: a process refused to start.
    """
    cluster = LocalCluster(prepared, file=file, listener=listener, policy=policy)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
