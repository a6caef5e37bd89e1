"""``sealserve proxy``: plain gRPC and REST on this machine, the attested protocols to the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.client_options import FILE, Endpoint, certificate_options, endpoint, endpoint_options, quiet
from sealserve.errors import InputError, MachineError

if TYPE_CHECKING:
    from sealserve.client import OwnerCertificates
    from sealserve.client.with_aiohttp import RestProxy
    from sealserve.client.with_grpcio.proxy import Proxy

_GRPC, _REST = "127.0.0.1:8500", "127.0.0.1:8501"


@click.command(short_help="Let plain TensorFlow Serving clients call replicas.")
@click.argument("target", required=False)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Where gRPC programs connect to; {_GRPC} if nothing else is given. Port 0 takes a free one.",
)
@click.option("--socket", type=FILE, help="Safer than a port: a socket file, with mode 0600, for unix:PATH.")
@click.option("--rest-listen", metavar="HOST:PORT", help="The same for REST programs.")
@click.option("--rest-socket", type=FILE, help="The same for REST programs, for curl --unix-socket PATH.")
@click.option("--rest-target", metavar="https://HOST:PORT", help="Where the cluster speaks REST, beside TARGET.")
@endpoint_options
@certificate_options
@click.option("--max-concurrent", type=click.IntRange(1, 4096), default=128, show_default=True, help="Calls at once.")
@click.option(
    "--max-message-bytes",
    type=click.IntRange(1 << 10, 1 << 30),
    default=64 << 20,
    show_default=True,
    help="The largest request and the largest answer.",
)
@click.option("--insecure-any-local-user", is_flag=True, help="Serve other users of this machine as well.")
@click.option(
    "--insecure-beyond-loopback", is_flag=True, help="Allow addresses that others can reach, and any Host in REST."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when it listens.")
def proxy(
    *,
    target: str | None,
    listen: str | None,
    socket: Path | None,
    rest_listen: str | None,
    rest_socket: Path | None,
    rest_target: str | None,
    deployment_file: Path | None,
    policy: Path | None,
    server_name: str | None,
    timeout: float,
    certificates: OwnerCertificates | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Let programs that speak TensorFlow Serving's gRPC or REST reach the replicas at TARGET, unchanged.

    TARGET is HOST:PORT for gRPC, or https://HOST:PORT for REST alone; with --rest-target, both are offered. Each
    connection to a replica is checked before it carries anything. Unary methods of all services are passed through,
    and REST requests of all paths. --timeout is for REST, and for calls without a deadline.

    Prefer socket files where programs can use them. A port belongs to whoever takes it: when the proxy is not running,
    another user of this machine can listen on it and be sent what is meant for the replicas.
    """
    quiet()
    where = endpoint(
        *(deployment_file, target, policy, server_name, None),
        certificates=certificates,
    )
    grpc, rest = _sides(where, (listen, socket), (rest_listen, rest_socket), rest_target)

    async def serve(last: contextlib.ExitStack) -> None:
        async with contextlib.AsyncExitStack() as clients:
            made = [await _open(side, clients, last, timeout, **options) for side in (grpc, rest) if side is not None]
            for one in made:
                await one.start()
            _tell([side for side in (grpc, rest) if side], as_json=as_json)
            ended = asyncio.ensure_future(_first(made))
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, ended.cancel)
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await ended
            finally:
                await asyncio.gather(*(one.stop() for one in made))

    # Ports are given back last of all, when nothing is left to do: another program may take them at once.
    with contextlib.ExitStack() as last:
        asyncio.run(serve(last))


@dataclasses.dataclass
class _Side:
    """One of the two protocols: whom to call, and where programs connect to."""

    kind: str
    where: Endpoint
    address: str | None
    socket: Path | None
    taken: list[str] = dataclasses.field(default_factory=list)


def _sides(
    where: Endpoint, grpc: tuple[str | None, Path | None], rest: tuple[str | None, Path | None], rest_target: str | None
) -> tuple[_Side | None, _Side | None]:
    """What is to be offered. :raises InputError: where the cluster speaks it is not known."""
    from sealserve.client.endpoint import parse_target
    from sealserve.client.protocols import REST

    if parse_target(where.target)[1] is REST:
        if any(grpc) or rest_target:
            raise InputError(
                f"{where.target} speaks REST",
                hint="For both, name HOST:PORT of gRPC and --rest-target https://HOST:PORT.",
            )
        return None, _Side("REST", where, rest[0] or (None if rest[1] else _REST), rest[1])
    wants_rest = bool(any(rest) or rest_target)
    sides: list[_Side | None] = [None, None]
    if any(grpc) or not any(rest):
        sides[0] = _Side("gRPC", where, grpc[0] or (None if grpc[1] else _GRPC), grpc[1])
    if wants_rest:
        there = rest_target or where.rest
        if there is None or parse_target(there)[1] is not REST:
            raise InputError(
                "where the cluster speaks REST is not known",
                hint="Name it with --rest-target https://HOST:PORT, or set gateway.rest_listen in deployment.yaml.",
            )
        side = dataclasses.replace(where, target=there)
        sides[1] = _Side("REST", side, rest[0] or (None if rest[1] else _REST), rest[1])
    return sides[0], sides[1]


async def _open(
    side: _Side,
    clients: contextlib.AsyncExitStack,
    last: contextlib.ExitStack,
    timeout: float,  # noqa: ASYNC109
    *,
    max_concurrent: int,
    max_message_bytes: int,
    insecure_any_local_user: bool,
    insecure_beyond_loopback: bool,
) -> Proxy | RestProxy:
    """Take the ports of one side, and look at one replica before programs are let in."""
    from sealserve.addresses import parse_address

    kind = _proxy_of(side)
    client = side.where.async_client(max_connections=min(max_concurrent, 64), max_reply_bytes=max_message_bytes)
    await clients.enter_async_context(client)
    made: Proxy | RestProxy = kind(
        client,
        timeout=timeout,
        max_concurrent=max_concurrent,
        max_message_bytes=max_message_bytes,
        insecure_any_local_user=insecure_any_local_user,
    )
    last.callback(made.close)
    if side.address is not None:
        address = parse_address(side.address, allow_any_port=True)
        side.taken.append(str(made.listen(address, insecure_beyond_loopback=insecure_beyond_loopback)))
    if side.socket is not None:
        made.listen_on_socket(side.socket)
        side.taken.append(f"unix:{side.socket}")
    await _check(client, timeout)
    return made


def _proxy_of(side: _Side) -> Any:
    try:
        if side.kind == "gRPC":
            from sealserve.client.with_grpcio.proxy import Proxy

            return Proxy
        from sealserve.client.with_aiohttp import RestProxy
    except ModuleNotFoundError as error:
        if error.name not in {"grpc", "aiohttp"}:
            raise
        package = "grpcio" if error.name == "grpc" else error.name
        raise MachineError(
            f"this command needs the Python package {package}, which is not installed",
            hint="Run `pip install '.[client,grpc]'`.",
        ) from error
    return RestProxy


async def _first(made: list[Proxy | RestProxy]) -> None:
    """Wait for the end of any. :raises MachineError: always."""
    tasks = [asyncio.ensure_future(one.ended()) for one in made]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _check(client: object, timeout: float) -> None:  # noqa: ASYNC109
    """Look at one replica before programs are let in: a refusal ends the proxy, a cluster that is down does not."""
    from sealserve.client.aio import AsyncClient
    from sealserve.errors import UnavailableError

    if not isinstance(client, AsyncClient):
        return
    try:
        verified = await client.verify(timeout=min(timeout, 10.0))
    except UnavailableError as error:
        click.secho(f"no replica answers yet: {error.message}", fg="yellow", err=True)
        return
    simulated = ", SIMULATED - NO PROTECTION" if verified.evidence.simulated else ""
    click.echo(f"checked {verified.name}: {verified.evidence.short_identity}{simulated}", err=True)


def _tell(sides: list[_Side], *, as_json: bool) -> None:
    if not as_json:
        for side in sides:
            click.echo(f"Plain {side.kind} on {', '.join(side.taken)}, attested to {side.where.target}.")
        click.echo("Ctrl-C ends it.")
        return
    told: dict[str, Any] = {}
    for side in sides:
        prefix = "" if side.kind == "gRPC" else "rest_"
        told |= {f"{prefix}listening": side.taken, f"{prefix}target": side.where.target}
    click.echo(json.dumps(told))
