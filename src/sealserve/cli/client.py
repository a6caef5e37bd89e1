"""``sealserve predict``: inputs from files to a replica that was checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.client_options import FILE, certificate_options, endpoint, endpoint_options, quiet
from sealserve.errors import InputError

if TYPE_CHECKING:
    from sealserve.client import OwnerCertificates


@click.command(short_help="Check the replica, send it inputs, print the answer.")
@click.argument("target", required=False)
@endpoint_options
@certificate_options
@click.option("--model", help="Name of the model; if not given, the deployment's or the only one that is served.")
@click.option("--version", type=int, help="Version of the model; the newest if not given.")
@click.option("--signature", default="serving_default", show_default=True, help="Signature of the model.")
@click.option("--image", "images", type=FILE, multiple=True, help="A picture to classify; may be given several times.")
@click.option("--npy", "arrays", multiple=True, metavar="NAME=FILE", help="An input from a file of numpy.save.")
@click.option("--input-json", type=FILE, help='A file with the inputs as JSON: {"NAME": [[...]]}.')
@click.option("--output", help="The output to show or to rank; for pictures, the one with scores if not given.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many classes to show.")
@click.option(
    "--labels", default="imagenet", show_default=True, help="imagenet, none, or a file with one label a line."
)
@click.option(
    "--framing",
    type=click.Choice(["whole", "center"]),
    default="whole",
    show_default=True,
    help="Squeeze the whole picture into the model's size, or take its centre.",
)
@click.option(
    "--pixels",
    type=click.Choice(["0..255", "0..1", "-1..1"]),
    default="0..1",
    show_default=True,
    help="Range of the pixels where the model takes floating-point numbers.",
)
@click.option("--receipt", type=FILE, help="Ask for a receipt, and keep it in this file with the evidence.")
@click.option("--receipt-with-messages", is_flag=True, help="Keep request and answer in that file, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def predict(
    *,
    target: str | None,
    deployment_file: Path | None,
    policy: Path | None,
    server_name: str | None,
    timeout: float,
    certificates: OwnerCertificates | None,
    model: str | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Check the replica at TARGET (HOST:PORT, or https://HOST:PORT for REST), then send it inputs and print the answer.

    Give pictures with --image, or arrays with --npy or --input-json.
    """
    from rich.console import Console

    from sealserve.client import Client
    from sealserve.client.display import show_verified
    from sealserve.client.endpoint import REST_SCHEME
    from sealserve.client.job import Job, run

    quiet()
    if request["receipt_with_messages"] and not request["receipt"]:
        raise InputError("--receipt-with-messages goes with --receipt")
    job = Job.from_options(**request)
    where = endpoint(deployment_file, target, policy, server_name, model, certificates=certificates)
    if request["receipt"] and where.target.startswith(REST_SCHEME):
        raise InputError("there are no receipts over REST", hint="Give HOST:PORT, that of gRPC.")
    console = Console(highlight=False, quiet=as_json)
    judged_by = where.required_policy()
    with Client(where.target, judged_by, server_name=where.server_name, certificates=where.certificates) as client:
        verified = client.verify(timeout=timeout)
        show_verified(console, verified)
        results = [result.as_dict() for result in run(client, job, where.model, console, timeout=timeout)]
    if request["receipt"] and not as_json:
        console.print(f"The receipt is kept in {request['receipt']}.", soft_wrap=True)
    if as_json:
        click.echo(json.dumps({"verified": verified.as_dict(), "predictions": results}))
