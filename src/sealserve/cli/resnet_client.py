"""``sealserve resnet-client``: the flags of the seed's ``resnet_client_grpc.py``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealserve.cli.client_options import (
    FILE,
    WITHOUT_EVIDENCE,
    Endpoint,
    endpoint,
    endpoint_options,
    insecure_option,
    only_model,
    quiet,
)
from sealserve.errors import InputError

if TYPE_CHECKING:
    from sealserve.client.resnet import Tally

_COUNT = click.IntRange(min=1, max=1024)


@click.command("resnet-client", short_help="Send pictures to a ResNet, and measure.")
@click.option("-url", "--url", "target", metavar="HOST:PORT", help="Where the server is; localhost:8500 if not given.")
@click.option("-batch", "--batch", type=_COUNT, default=1, show_default=True, help="Pictures in a request.")
@click.option("-cnum", "--cnum", type=_COUNT, default=16, show_default=True, help="Connections, each with one request.")
@click.option(
    "-loop",
    "--loop",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="Requests on each connection; 0 goes on until Ctrl-C.",
)
@click.option("-img", "--img", "picture", type=FILE, help="A picture to send; a dummy if not given.")
@click.option("-ca", "--ca", type=FILE, help="Certificate of the authority that signed the server's.")
@click.option("-crt", "--crt", type=FILE, help="With -ca, this client's certificate; without, the server's.")
@click.option("-key", "--key", type=FILE, help="The key of this client's certificate.")
@click.option("--model", help="Name of the model; if not given, the only one, or resnet50-v15-fp32.")
@endpoint_options
@insecure_option
@click.pass_context
def resnet_client(
    context: click.Context,
    *,
    target: str | None,
    batch: int,
    cnum: int,
    loop: int,
    picture: Path | None,
    ca: Path | None,
    crt: Path | None,
    key: Path | None,
    model: str | None,
    deployment_file: Path | None,
    policy: Path | None,
    server_name: str | None,
    timeout: float,
    insecure_without_evidence: bool,
) -> None:
    """Send pictures to a ResNet, and measure, with the flags of resnet_client_grpc.py.

    The server is checked by its evidence first, and where certificates are given by those as well. For a server
    without evidence say --insecure-without-evidence. --timeout is for each request.
    """
    from sealserve.cli.signals import interrupted_by_termination
    from sealserve.client import OwnerCertificates
    from sealserve.client.resnet import Tally

    quiet()
    if key is not None and ca is None:
        raise InputError("-key goes with -ca and -crt", hint="Without -ca, -crt is the server's certificate.")
    certificates = OwnerCertificates(roots=ca or crt, certificate=crt if ca else None, key=key) if ca or crt else None
    if target is None and deployment_file is None and not Path("deployment.yaml").exists():
        target = "localhost:8500"
    try:
        where = endpoint(
            *(deployment_file, target, policy, server_name, model),
            insecure_without_evidence=insecure_without_evidence,
            certificates=certificates,
        )
    except InputError as error:
        if target is None or policy is not None or insecure_without_evidence:
            raise
        hint = "Name one with --policy, or say --insecure-without-evidence to know the server by its certificate alone."
        raise InputError("there is no policy to check the server's evidence by", hint=hint) from error
    if where.policy is None:
        click.secho(WITHOUT_EVIDENCE, fg="yellow", bold=True)
    tally = Tally(batch, cnum)
    with interrupted_by_termination():
        try:
            asyncio.run(_run(where, tally, loop=loop, picture=picture, timeout=timeout))
        except KeyboardInterrupt:
            _finish(tally)
            context.exit(0 if loop == 0 else 130)
    _finish(tally)


async def _run(
    where: Endpoint,
    tally: Tally,
    *,
    loop: int,
    picture: Path | None,
    timeout: float,  # noqa: ASYNC109 - of each call
) -> None:
    import time

    from sealserve.client.aio import AsyncClient
    from sealserve.client.images import load_image
    from sealserve.client.resnet import DEFAULT_MODEL, WARM_UP, Tally, ask
    from sealserve.client.workload import dummy_inputs, picture_inputs

    loaded = load_image(picture) if picture else None
    async with where.async_client(max_connections=tally.connections) as client:
        model = where.model or DEFAULT_MODEL
        if isinstance(client, AsyncClient):
            verified = await client.verify(timeout=timeout)
            simulated = ", SIMULATED - NO PROTECTION" if verified.evidence.simulated else ""
            click.echo(f"checked {verified.name}: {verified.evidence.short_identity}{simulated}")
            model = where.model or only_model({served.name for served in verified.claims.models})
        signature = (await client.metadata(model, timeout=timeout)).signature("serving_default")
        batch = tally.batch
        inputs = picture_inputs(signature, loaded, batch) if loaded else dummy_inputs(signature, batch)
        if loop:
            warm = Tally(batch, tally.connections)
            await ask(client, inputs, warm, model=model, loop=WARM_UP, timeout=timeout, say=lambda _: None)
            click.echo(f"warm-up: {warm.requests} requests")
        tally.started = time.perf_counter()
        await ask(client, inputs, tally, model=model, loop=loop, timeout=timeout, say=click.echo)


def _finish(tally: Tally) -> None:
    from rich.console import Console

    from sealserve.client.display import show_outputs

    if tally.first is not None:
        show_outputs(Console(highlight=False), "first answer", tally.first, tally.first.outputs)
    click.echo(tally.summary())
