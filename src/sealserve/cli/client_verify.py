"""``sealserve verify``: a report on the replica that answers, or on evidence that was kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.client_options import FILE, certificate_options, endpoint, endpoint_options, quiet
from sealserve.errors import InputError

if TYPE_CHECKING:
    from sealserve.client import OwnerCertificates


class _WithReceipts(click.Command):
    """TARGET is HOST:PORT; the word `receipt` in its place is a command of its own."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] != ["receipt"]:
            return super().make_context(info_name, args, parent, **extra)
        from sealserve.cli.client_receipt import receipt

        return receipt.make_context(f"{info_name} receipt", args[1:], parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(cls=_WithReceipts, short_help="Check a replica, and report every check.")
@click.argument("target", required=False)
@endpoint_options
@certificate_options
@click.option("--save", type=FILE, help="Keep the evidence in this file, whatever the policy says of it.")
@click.option("--saved", type=FILE, help="Judge the evidence in this file; nobody is asked anything.")
@click.option("--then", is_flag=True, help="With --saved: judge as of the time at which it was saved, not of now.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the evidence itself.")
@click.pass_context
def verify(
    context: click.Context,
    *,
    target: str | None,
    deployment_file: Path | None,
    policy: Path | None,
    server_name: str | None,
    timeout: float,
    certificates: OwnerCertificates | None,
    save: Path | None,
    saved: Path | None,
    then: bool,
    as_json: bool,
) -> None:
    """Check the replica at TARGET (HOST:PORT, or https://HOST:PORT for REST) and report every check.

    Nothing but a random nonce is sent. The exit code is 0 if the replica is accepted and 4 if it is not.

    `sealserve verify receipt FILE` checks a receipt that was kept, see `sealserve verify receipt --help`.
    """
    from rich.console import Console

    from sealserve.client import DEFAULT_SERVER_NAME
    from sealserve.client.display import show_report
    from sealserve.client.kept import read_kept
    from sealserve.client.report import examine, rejudge
    from sealserve.files import read_file

    quiet()
    if (saved and (target or save)) or (then and not saved):
        raise InputError("--saved goes without a target and --save, and --then goes with --saved")
    kept = read_kept(saved) if saved else None
    where = endpoint(
        *(deployment_file, kept.target if kept else target, policy, server_name, None),
        certificates=certificates,
    )
    judged_by = where.required_policy()
    if kept:
        report = rejudge(kept, judged_by, now=kept.at.timestamp() if then else None)
    else:
        name = where.server_name or DEFAULT_SERVER_NAME
        report = examine(where.target, judged_by, server_name=name, certificates=where.certificates, timeout=timeout)
    if where.policy is not None:
        report.policy_digest = hashlib.sha256(read_file(where.policy)).hexdigest()
    if save and report.kept:
        report.kept.save(save)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        console = Console(highlight=False)
        show_report(console, report)
        if save and report.kept:
            console.print(f"The evidence is kept in {save}.", soft_wrap=True)
    if report.error is not None:
        context.exit(report.error.exit_code)
