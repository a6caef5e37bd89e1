"""The whole cluster as `sealserve up` runs it, with the real nginx and stand-ins for broker and replicas."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from process_fakes import PRELUDE

from sealserve.addresses import Address
from sealserve.deploy import Deployment
from sealserve.errors import MachineError
from sealserve.evidence import SimulatedEnclave
from sealserve.gateway import find_nginx
from sealserve.local import cluster as cluster_module
from sealserve.local.certificates import ensure_authority, ensure_server_certificate
from sealserve.local.cluster import LocalCluster, run_cluster
from sealserve.local.control import report_processes, running_state, stop_cluster
from sealserve.local.events import Event, ProcessDied, ProcessReady
from sealserve.local.layout import Layout
from sealserve.local.leftovers import end_leftovers
from sealserve.local.ports import require_free
from sealserve.local.prepare import PreparedCluster, PreparedModel
from sealserve.local.proc import all_processes
from sealserve.local.state import AlreadyRunningError, cluster_lock, is_running, read_state
from sealserve.local.supervised import RestartPolicy

NAME = "replica.sealserve.internal"

_REPLICA = """
import ssl
import threading
name, ports = sys.argv[1], list(map(int, sys.argv[2:]))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("../owner/broker.pem", "../owner/broker-key.pem")
def listen(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener
def serve(listener, text):
    while True:
        raw, _ = listener.accept()
        try:
            with context.wrap_socket(raw, server_side=True) as stream:
                stream.sendall(text.encode())
        except OSError:
            pass
grpc, *rest = map(listen, ports)
for listener in rest:
    threading.Thread(target=serve, args=(listener, name + " by REST"), daemon=True).start()
open(os.path.join(os.environ["TMPDIR"], name), "w").close()
say(READY=1)
serve(grpc, name)
"""


def _fake_commands(monkeypatch: pytest.MonkeyPatch, replica: str = _REPLICA) -> None:
    python = (sys.executable, "-I", "-S", "-c")
    monkeypatch.setattr(cluster_module, "broker_command", lambda _: (*python, PRELUDE + "say(READY=1); wait()"))
    monkeypatch.setattr(
        cluster_module,
        "replica_command",
        lambda _, *, name, listen, rest_listen, **__: (
            *(*python, PRELUDE + replica, name, str(listen.port)),
            *([str(rest_listen.port)] if rest_listen else []),
        ),
    )


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedCluster:
    try:
        nginx = find_nginx()
    except MachineError as error:
        pytest.skip(str(error))
    _fake_commands(monkeypatch)
    layout = Layout(tmp_path / "state").make()
    ensure_authority(layout.authority_key, layout.authority, name="test")
    ensure_server_certificate(
        layout.broker_key,
        layout.broker_certificate,
        authority_key=layout.authority_key,
        authority=layout.authority,
        hosts=[NAME],
    )
    return PreparedCluster(
        deployment=Deployment.model_validate({"name": "test", "model": {"name": "m", "path": "m"}}),
        layout=layout,
        nginx=nginx,
        broker=Address("127.0.0.1", 1),
        gateway=require_free(Address("127.0.0.1", 0), setting="gateway.listen"),
        model=PreparedModel(version=1, digest=bytes(32), files=1, size=1, newly_sealed=True),
        enclave=SimulatedEnclave(bytes(32), bytes(32)),
    )


async def ask(cluster: LocalCluster, where: Address | None = None) -> str:
    """Which replica answers, through the gateway, over TLS that its certificate authority vouches for."""
    where = where or cluster.gateway
    context = ssl.create_default_context(cafile=cluster.prepared.layout.authority)
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(where.host, where.port, ssl=context, server_hostname=NAME)
        with contextlib.closing(writer):
            return (await reader.read()).decode()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - files and /proc announce nothing
            await asyncio.sleep(0.01)


def working_in(root: Path) -> list[int]:
    """Processes whose working directory is below ``root``."""
    found = []
    for facts in all_processes():
        with contextlib.suppress(OSError):
            if facts.state not in "ZX" and Path(f"/proc/{facts.pid}/cwd").readlink().is_relative_to(root):
                found.append(facts.pid)
    return found


def test_both_replicas_answer_and_nothing_is_left_afterwards(prepared: PreparedCluster) -> None:
    async def main() -> None:
        async with run_cluster(prepared) as cluster:
            assert {await ask(cluster) for _ in range(4)} == {"replica-1", "replica-2"}
            assert len(working_in(prepared.layout.root)) >= 5
            assert sorted(path.name for path in prepared.layout.temporary.iterdir()) == ["replica-1", "replica-2"]

    asyncio.run(main())
    assert working_in(prepared.layout.root) == []
    assert list(prepared.layout.temporary.iterdir()) == []
    assert not prepared.layout.state.exists()


def test_rest_is_a_port_of_its_own_that_the_state_tells(prepared: PreparedCluster) -> None:
    prepared = replace(prepared, rest=require_free(Address("127.0.0.1", 0), setting="gateway.rest_listen"))

    async def main() -> None:
        async with run_cluster(prepared) as cluster:
            assert cluster.rest == prepared.rest
            assert {await ask(cluster, cluster.rest) for _ in range(4)} == {"replica-1 by REST", "replica-2 by REST"}
            assert {await ask(cluster) for _ in range(4)} == {"replica-1", "replica-2"}
            state = read_state(prepared.layout)
            assert state is not None
            assert state.rest == str(cluster.rest)

    asyncio.run(main())


def test_requests_go_on_while_a_replica_is_dead_and_it_comes_back(prepared: PreparedCluster) -> None:
    async def main() -> None:
        events: list[Event] = []
        policy = RestartPolicy(first_delay=1.0)
        async with run_cluster(prepared, listener=events.append, policy=policy) as cluster:
            child = cluster.process("replica-1").child
            assert child is not None
            os.kill(child.pid, signal.SIGKILL)
            await until(lambda: any(isinstance(event, ProcessDied) for event in events))
            assert {await ask(cluster) for _ in range(4)} == {"replica-2"}
            await until(lambda: any(isinstance(event, ProcessReady) and event.attempt == 2 for event in events))
            async with asyncio.timeout(20):
                while await ask(cluster) != "replica-1":  # noqa: ASYNC110 - nginx does not tell when it tries again
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_a_gateway_whose_master_is_killed_comes_back_without_old_workers(prepared: PreparedCluster) -> None:
    async def main() -> None:
        async with run_cluster(prepared) as cluster:
            gateway = cluster.process("gateway")
            assert gateway.child is not None
            first = gateway.child.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: gateway.phase == "ready" and gateway.attempt == 2)
            assert [facts.pid for facts in all_processes() if facts.session == first and facts.state not in "ZX"] == []
            assert await ask(cluster) in {"replica-1", "replica-2"}

    asyncio.run(main())


def test_the_state_tells_what_runs(prepared: PreparedCluster) -> None:
    async def main() -> None:
        with cluster_lock(prepared.layout):
            async with run_cluster(prepared) as cluster:
                state = running_state(prepared.layout)
                assert state is not None
                assert state.phase == "running"
                assert state.gateway == str(cluster.gateway)
                assert state.supervisor == os.getpid()
                reports = {report.name: report for report in report_processes(state)}
                assert set(reports) == {"broker", "replica-1", "replica-2", "gateway"}
                assert all(report.phase == "ready" and report.resident for report in reports.values())
                assert reports["replica-1"].attested
                assert reports["gateway"].attested is None

    asyncio.run(main())
    assert running_state(prepared.layout) is None


def test_a_second_cluster_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path).make()
    with cluster_lock(layout):
        assert is_running(layout)
        with pytest.raises(AlreadyRunningError, match="runs already"), cluster_lock(layout):
            pass
    assert not is_running(layout)


def test_a_gateway_that_cannot_have_its_port_says_so(prepared: PreparedCluster) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = Address("127.0.0.1", taken.getsockname()[1])
            with pytest.raises(MachineError, match=f"gateway did not start: port {address.port} .*in use by"):
                async with run_cluster(replace(prepared, gateway=address)):
                    pass

    asyncio.run(main())
    assert working_in(prepared.layout.root) == []


def test_a_replica_that_is_refused_fails_the_start_with_its_reason(
    prepared: PreparedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_commands(monkeypatch, "log('error: the broker refused the key\\\\n       See the policy.'); sys.exit(4)")

    async def main() -> None:
        with pytest.raises(Exception, match=r"replica-\d did not start: the broker refused the key"):
            async with run_cluster(prepared):
                pass

    asyncio.run(main())
    assert working_in(prepared.layout.root) == []


def _run_in_a_fork(prepared: PreparedCluster) -> int:
    """Run the cluster in a process of its own, as `sealserve up` does, until it is told to stop."""
    pid = os.fork()
    if pid:
        return pid
    try:

        async def main() -> None:
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            async with run_cluster(prepared):
                await stop.wait()

        with cluster_lock(prepared.layout):
            asyncio.run(main())
    finally:
        os._exit(0)


def _running(layout: Layout) -> bool:
    state = read_state(layout)
    return state is not None and state.phase == "running"


def test_nothing_survives_a_supervisor_that_is_killed_not_even_nginx_workers(prepared: PreparedCluster) -> None:
    async def main() -> None:
        pid = _run_in_a_fork(prepared)
        await until(lambda: _running(prepared.layout))
        assert len(working_in(prepared.layout.root)) >= 5
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, pid, 0)
        await until(lambda: working_in(prepared.layout.root) == [])
        assert not is_running(prepared.layout)

    asyncio.run(main())


def test_workers_that_lost_master_and_supervisor_at_once_are_found_and_ended(prepared: PreparedCluster) -> None:
    async def main() -> None:
        pid = _run_in_a_fork(prepared)
        await until(lambda: _running(prepared.layout))
        state = read_state(prepared.layout)
        assert state is not None
        master = next(process.pid for process in state.processes if process.name == "gateway")
        assert master is not None
        os.kill(pid, signal.SIGSTOP)
        os.kill(master, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, pid, 0)
        await until(lambda: len(working_in(prepared.layout.root)) == 1)
        assert len(end_leftovers(prepared.layout)) == 1
        assert working_in(prepared.layout.root) == []
        assert not prepared.layout.state.exists()

    asyncio.run(main())


def test_down_stops_the_cluster_of_another_process(prepared: PreparedCluster) -> None:
    async def main() -> None:
        pid = _run_in_a_fork(prepared)
        await until(lambda: _running(prepared.layout))
        assert await asyncio.to_thread(stop_cluster, prepared.layout)
        await asyncio.to_thread(os.waitpid, pid, 0)
        assert working_in(prepared.layout.root) == []
        assert not stop_cluster(prepared.layout)

    asyncio.run(main())
