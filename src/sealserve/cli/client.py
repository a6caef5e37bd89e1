"""``sealserve predict`` and ``sealserve verify``: the data owner's commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sealserve.errors import InputError

if TYPE_CHECKING:
    from sealserve.evidence import AppraisalPolicy

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True)
class Endpoint:
    """Whom to call and what to demand of it."""

    target: str
    policy: Path
    server_name: str
    model: str | None
    deployment_file: Path | None = None

    def load_policy(self) -> AppraisalPolicy:
        """The policy.

        :raises InputError: it is missing or not valid.
        """
        from sealserve.evidence import AppraisalPolicy

        if self.deployment_file is not None and not self.policy.exists():
            raise InputError(
                f"there is no policy {self.policy}: no cluster of {self.deployment_file} was started yet",
                hint="Start it with `sealserve up`, or name a policy with --policy.",
            )
        return AppraisalPolicy.load(self.policy)


def endpoint(
    deployment_file: Path | None,
    target: str | None,
    policy: Path | None,
    server_name: str | None,
    model: str | None,
    *,
    target_is: str = "--target",
) -> Endpoint:
    """What the options say, and for the rest the running local cluster of the deployment file.

    :param deployment_file: ``deployment.yaml`` in the current directory, if it exists and None is given.
    :param target_is: what the command calls the target.
    :raises InputError: target or policy are not known.
    """
    from sealserve.client import DEFAULT_SERVER_NAME
    from sealserve.deploy import FILE_NAME, load_deployment

    if deployment_file is None and not (target and policy) and Path(FILE_NAME).exists():
        deployment_file = Path(FILE_NAME)
    if deployment_file is not None:
        from sealserve.local.layout import Layout
        from sealserve.local.state import read_state

        deployment = load_deployment(deployment_file)
        layout = Layout(deployment.state)
        state = read_state(layout)
        gateway = state.gateway if state else str(deployment.gateway.listen.reachable_here())
        target = target or gateway
        policy = policy or layout.client_policy
        server_name = server_name or deployment.tls.server_name
        model = model or deployment.model.name
    if not target or not policy:
        if not target and not policy:
            missing = f"{target_is} and --policy are missing, and there is no ./{FILE_NAME}"
        else:
            missing = f"{'--policy' if target else target_is} is missing, and there is no ./{FILE_NAME}"
        raise InputError(
            f"whom to call is not known: {missing}",
            hint=f"Give both, or name the {FILE_NAME} of a cluster on this machine with -f.",
        )
    return Endpoint(target, policy, server_name or DEFAULT_SERVER_NAME, model, deployment_file)


def _endpoint_options(command: _Command) -> _Command:
    for option in (
        click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds for all of it."),
        click.option("--server-name", help="TLS server name (SNI) by which the gateway routes."),
        click.option("--policy", type=_FILE, help="What enclaves to accept."),
        click.option(
            "-f",
            "--file",
            "deployment_file",
            type=_FILE,
            help="Take what is not given from this deployment and its running cluster; ./deployment.yaml if it exists.",
        ),
    ):
        command = option(command)
    return command


def _quiet() -> None:
    """What the logs would say of simulated platforms and refusals, these commands say themselves."""
    import logging

    from sealserve.logs import configure

    configure(json_lines=False, level=logging.ERROR)


@click.command()
@click.argument("target", required=False)
@_endpoint_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the quote itself.")
@click.pass_context
def verify(
    context: click.Context,
    *,
    target: str | None,
    deployment_file: Path | None,
    policy: Path | None,
    server_name: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Check the replica at TARGET (HOST:PORT) and report every check.

    Nothing but a random nonce is sent. The exit code is 0 if the replica is accepted and 4 if it is not.
    """
    from rich.console import Console

    from sealserve.client.display import show_report
    from sealserve.client.report import examine

    _quiet()
    where = endpoint(deployment_file, target, policy, server_name, None, target_is="TARGET (HOST:PORT)")
    report = examine(where.target, where.load_policy(), server_name=where.server_name, timeout=timeout)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        show_report(Console(highlight=False), report)
    if report.error is not None:
        context.exit(report.error.exit_code)


@click.command(short_help="Check the replica, send it inputs, print the answer.")
@click.option("--target", help="HOST:PORT of the gateway or of a replica.")
@_endpoint_options
@click.option("--model", help="Name of the model; if not given, the deployment's or the only one that is served.")
@click.option("--version", type=int, help="Version of the model; the newest if not given.")
@click.option("--signature", default="serving_default", show_default=True, help="Signature of the model.")
@click.option("--image", "images", type=_FILE, multiple=True, help="A picture to classify; may be given several times.")
@click.option("--npy", "arrays", multiple=True, metavar="NAME=FILE", help="An input from a file of numpy.save.")
@click.option("--input-json", type=_FILE, help='Inputs as JSON: {"NAME": [[...]]}.')
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def predict(
    *,
    target: str | None,
    deployment_file: Path | None,
    policy: Path | None,
    server_name: str | None,
    timeout: float,
    model: str | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Check the replica that answers, then send it inputs and print what the model says.

    Give pictures with --image, or arrays with --npy or --input-json.
    """
    from rich.console import Console

    from sealserve.client import Client
    from sealserve.client.display import show_verified
    from sealserve.client.job import Job, run

    _quiet()
    job = Job.from_options(**request)
    where = endpoint(deployment_file, target, policy, server_name, model)
    console = Console(highlight=False, quiet=as_json)
    with Client(where.target, where.load_policy(), server_name=where.server_name) as client:
        verified = client.verify(timeout=timeout)
        show_verified(console, verified)
        results = [result.as_dict() for result in run(client, job, where.model, console, timeout=timeout)]
    if as_json:
        click.echo(json.dumps({"verified": verified.as_dict(), "predictions": results}))
