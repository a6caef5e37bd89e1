"""``sealserve evidence``: look at evidence, appraise it, and take over a policy of the original."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from sealserve.cli.evidence_options import COLLATERAL_HELP, read_collateral, read_report_data, read_time
from sealserve.cli.evidence_trust_domain import quote, trust_domain
from sealserve.cli.failures import say

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def evidence() -> None:
    """Look at evidence, and judge it."""


@evidence.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(file: Path, *, as_json: bool) -> None:
    """Explain the evidence in FILE without judging it.

    FILE holds a quote (raw or hexadecimal), an RA-TLS certificate (PEM or DER), a report of `sealserve verify --json`,
    or collateral.
    """
    from rich.console import Console

    from sealserve.cli.evidence_display import Page, show_collateral, show_quote
    from sealserve.cli.evidence_files import read_evidence_file
    from sealserve.evidence import Collateral, parse_quote
    from sealserve.evidence.description import describe, describe_collateral

    found = read_evidence_file(file)
    page = Page(Console(highlight=False))
    if isinstance(found, Collateral):
        described = describe_collateral(found)
        if not as_json:
            show_collateral(page, described)
    else:
        described = describe(parse_quote(found.quote)) | {"source": found.kind}
        if not as_json:
            show_quote(page, described, found.kind)
    if as_json:
        click.echo(json.dumps(described))


@evidence.command()
@click.argument("file", type=_FILE)
@click.option("--policy", "policy_file", type=_FILE, required=True, help="What evidence to accept.")
@click.option(
    "--time",
    "now",
    metavar="TIME",
    callback=read_time,
    help="Judge at this time (UTC if it has no zone) instead of now.",
)
@click.option(
    "--report-data", metavar="HEX", callback=read_report_data, help="The 64 bytes that the quote must be over."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(
    context: click.Context,
    file: Path,
    *,
    policy_file: Path,
    now: float | None,
    report_data: bytes | None,
    as_json: bool,
) -> None:
    """Appraise the evidence in FILE, and report every check.

    FILE holds a quote (raw or hexadecimal), an RA-TLS certificate (PEM or DER), or a report of `sealserve verify
    --json`. The exit code is 0 if the policy accepts it and 4 if not. A certificate and a report tell what the quote
    must be over. For a quote alone --report-data does; without it nobody can say for whom and when it was made, and the
    evidence does not count as accepted.

    Of models, what the quote is bound to counts, and nothing else. A policy that lists models refuses evidence that
    says nothing of them: a quote alone, or a certificate.
    """
    from rich.console import Console

    from sealserve.cli.evidence_claims import judge_stored
    from sealserve.cli.evidence_display import Page, show_appraisal
    from sealserve.cli.evidence_files import read_evidence_file
    from sealserve.client.stored_claims import claims_as_dict
    from sealserve.errors import EvidenceError, InputError
    from sealserve.evidence import AppraisalPolicy, Collateral

    _quiet()
    found = read_evidence_file(file)
    if isinstance(found, Collateral):
        raise InputError(
            f"{file} holds collateral, and no evidence", hint="`sealserve evidence show` explains collateral."
        )
    policy = AppraisalPolicy.load(policy_file)
    appraisal, claims = judge_stored(found, policy, report_data=report_data, now=now)
    if as_json:
        claimed = {} if claims is None else claims_as_dict(claims)
        click.echo(json.dumps(appraisal.as_dict() | claimed | {"source": found.kind}))
    else:
        moment = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
        binding = found.binding if report_data is None else "the report data given"
        show_appraisal(Page(Console(highlight=False)), appraisal, kind=found.kind, binding=binding, now=moment)
    if not appraisal.accepted:
        context.exit(appraisal.error.exit_code if appraisal.error is not None else EvidenceError.exit_code)


@evidence.command("import-ra-config", short_help="Make a policy of an ra_config.json.")
@click.argument("file", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, help="The policy file to write; it must not exist.")
@click.option(
    "--collateral",
    default="intel",
    show_default=True,
    help=COLLATERAL_HELP,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def import_ra_config(file: Path, *, output: Path, collateral: str, as_json: bool) -> None:
    """Make a policy of an ra_config.json of the confidential-computing-zoo.

    What the policy does not check is told on standard error. A file that would accept any enclave is refused.
    """
    from sealserve.errors import InputError
    from sealserve.evidence.policy.ra_config import import_ra_config as import_it
    from sealserve.files import read_file, write_atomically

    if output.exists():
        raise InputError(f"{output} exists", hint="Name another file, or remove it first.")
    imported = import_it(read_file(file, limit=1 << 20), collateral=read_collateral(collateral), name=str(file))
    write_atomically(output, imported.document.to_yaml())
    if as_json:
        told = {"policy": str(output), "warnings": imported.warnings, "remarks": imported.remarks}
        click.echo(json.dumps(told))
        return
    for warning in imported.warnings:
        say("warning", "yellow", warning)
    for remark in imported.remarks:
        click.echo(f"note: {remark}", err=True)
    count = len(imported.document.enclaves)
    click.echo(f"{output}: {count} enclave{'' if count == 1 else 's'}; read it before you use it")


def _quiet() -> None:
    """What the logs would say of insecure policies and refusals, the report says itself."""
    import logging

    from sealserve.logs import configure

    configure(json_lines=False, level=logging.ERROR)


evidence.add_command(quote)
evidence.add_command(trust_domain)
