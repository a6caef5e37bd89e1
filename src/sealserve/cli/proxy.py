"""``sealserve proxy``: plain gRPC on this machine, the attested protocol to the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path

import click

from sealserve.cli.client_options import FILE, Endpoint, endpoint, endpoint_options, quiet
from sealserve.errors import MachineError


@click.command(short_help="Let plain TensorFlow Serving clients call replicas.")
@click.argument("target", required=False)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where programs connect to; 127.0.0.1:8500 if no socket is given. Port 0 takes a free one.",
)
@click.option("--socket", type=FILE, help="Safer than a port: a socket file, with mode 0600, for unix:PATH.")
@endpoint_options
@click.option("--max-concurrent", type=click.IntRange(1, 4096), default=128, show_default=True, help="Calls at once.")
@click.option(
    "--max-message-bytes",
    type=click.IntRange(1 << 10, 1 << 30),
    default=64 << 20,
    show_default=True,
    help="The largest request and the largest answer.",
)
@click.option("--insecure-any-local-user", is_flag=True, help="Serve other users of this machine as well.")
@click.option("--insecure-beyond-loopback", is_flag=True, help="Allow --listen on an address that others can reach.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when it listens.")
def proxy(
    *,
    target: str | None,
    listen: str | None,
    socket: Path | None,
    deployment_file: Path | None,
    policy: Path | None,
    server_name: str | None,
    timeout: float,
    max_concurrent: int,
    max_message_bytes: int,
    insecure_any_local_user: bool,
    insecure_beyond_loopback: bool,
    as_json: bool,
) -> None:
    """Let programs that speak TensorFlow Serving's gRPC reach the replicas at TARGET (HOST:PORT), unchanged.

    Each connection to a replica is checked before it carries anything. Unary methods of all services are passed
    through, with metadata, deadline and status. REST is not offered yet. --timeout is for calls without a deadline.

    Prefer --socket where programs can use one. A port belongs to whoever takes it: when the proxy is not running,
    another user of this machine can listen on it and be sent what is meant for the replicas.
    """
    from sealserve.addresses import parse_address

    try:
        from sealserve.client.with_grpcio.proxy import Proxy
    except ModuleNotFoundError as error:
        if error.name != "grpc":
            raise
        raise MachineError(
            "this command needs the Python package grpcio, which is not installed",
            hint="Run `pip install '.[client,grpc]'`.",
        ) from error

    quiet()
    where = endpoint(deployment_file, target, policy, server_name, None, target_is="TARGET (HOST:PORT)")
    addresses = [parse_address(listen or "127.0.0.1:8500", allow_any_port=True)] if listen or not socket else []

    async def serve(last: contextlib.ExitStack) -> None:
        options = {"max_connections": min(max_concurrent, 64), "max_reply_bytes": max_message_bytes}
        async with where.async_client(**options) as client:
            made = Proxy(
                client,
                timeout=timeout,
                max_concurrent=max_concurrent,
                max_message_bytes=max_message_bytes,
                insecure_any_local_user=insecure_any_local_user,
            )
            last.callback(made.close)
            taken = [str(made.listen(a, insecure_beyond_loopback=insecure_beyond_loopback)) for a in addresses]
            if socket is not None:
                made.listen_on_socket(socket)
                taken.append(f"unix:{socket}")
            await _check(client, timeout)
            await made.start()
            _tell(where, taken, as_json=as_json)
            ended = asyncio.ensure_future(made.ended())
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, ended.cancel)
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await ended
            finally:
                await made.stop()

    # Ports are given back last of all, when nothing is left to do: another program may take them at once.
    with contextlib.ExitStack() as last:
        asyncio.run(serve(last))


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
    click.echo(f"checked {verified.name}: MRENCLAVE {verified.evidence.mrenclave.hex()[:16]}…{simulated}", err=True)


def _tell(where: Endpoint, taken: list[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"listening": taken, "target": where.target}))
    else:
        click.echo(f"Plain gRPC on {', '.join(taken)}, attested to {where.target}. Ctrl-C ends it.")
