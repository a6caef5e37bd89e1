"""``sealserve verify receipt``: judge a receipt that was kept, without asking anybody."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click

from sealserve.cli.client_options import FILE, endpoint, quiet
from sealserve.cli.evidence_options import read_time


@click.command("verify receipt")
@click.argument("file", type=FILE)
@click.option("--policy", type=FILE, help="What enclaves and models to accept.")
@click.option("-f", "--file", "deployment_file", type=FILE, help="Take the policy of this deployment's cluster.")
@click.option("--request", type=FILE, help="The request message (serialized) that it must be for.")
@click.option("--answer", type=FILE, help="The answer message (serialized) that it must be for.")
@click.option(
    "--at",
    metavar="TIME",
    callback=read_time,
    help="Judge the evidence as of this time (UTC if it has no zone) instead of the receipt's own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def receipt(
    context: click.Context,
    *,
    file: Path,
    policy: Path | None,
    deployment_file: Path | None,
    request: Path | None,
    answer: Path | None,
    at: float | None,
    as_json: bool,
) -> None:
    """Check the receipt in FILE, as `sealserve predict --receipt FILE` writes it, and report every check.

    Nobody is asked anything: the evidence is judged with the collateral in FILE, under a policy of yours. The exit code
    is 0 if it proves what it says and 4 if not.
    """
    from rich.console import Console

    from sealserve.client.display import show_receipt
    from sealserve.client.receipt_files import read_receipt_file
    from sealserve.client.receipt_report import judge_receipt
    from sealserve.files import read_file

    quiet()
    kept = read_receipt_file(file)
    where = endpoint(deployment_file, str(file), policy, None, None)
    messages = [read_file(path, limit=1 << 31) if path else None for path in (request, answer)]
    report = judge_receipt(kept, where.required_policy(), request=messages[0], answer=messages[1], at=at)
    if where.policy is not None:
        report.policy_digest = hashlib.sha256(read_file(where.policy)).hexdigest()
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        show_receipt(Console(highlight=False), report, str(file))
    if report.error is not None:
        context.exit(report.error.exit_code)
