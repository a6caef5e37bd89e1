"""``sealserve evidence quote`` and ``trust-domain``: from a TDX guest to the policy that knows it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sealserve.cli.evidence_options import COLLATERAL_HELP, read_collateral, read_report_data

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Have the TDX guest that this is quoted.")
@click.option("-o", "--output", type=_FILE, required=True, help="The file to write the quote to.")
@click.option(
    "--report-data", metavar="HEX", callback=read_report_data, help="The 64 bytes that it is over; zeros if not given."
)
def quote(*, output: Path, report_data: bytes | None) -> None:
    """Have the TDX guest quoted that this machine is.

    It shows whether a replica could attest here, and gives `sealserve evidence trust-domain` the guest's measurements.
    It takes root.
    """
    from sealserve.evidence import TsmAttester
    from sealserve.files import write_atomically

    found = TsmAttester().quote(report_data or bytes(64))
    write_atomically(output, found)
    click.echo(f"{output}: a quote of {len(found):,} bytes; `sealserve evidence show` explains it")


@click.command("trust-domain", short_help="Make a policy of a TDX guest's quote.")
@click.argument("file", type=_FILE)
@click.option("--deployment", required=True, help="The replicas' --deployment.")
@click.option("--broker-ca", type=_FILE, required=True, help="The replicas' --broker-ca, PEM.")
@click.option("-o", "--output", type=_FILE, required=True, help="The policy file to write; it must not exist.")
@click.option("--collateral", default="intel", show_default=True, help=COLLATERAL_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def trust_domain(file: Path, *, deployment: str, broker_ca: Path, output: Path, collateral: str, as_json: bool) -> None:
    """Make a policy that accepts replicas in guests like the one that the quote in FILE is of.

    Everything that the quote says of the guest is demanded. RTMR 3 is computed: replicas put their deployment and
    broker CA into it. The quote must be of a guest that you trust, from before its first replica started, or after.
    """
    import re

    from sealserve.broker.messages import NAME_PATTERN
    from sealserve.cli.evidence_files import read_evidence_file
    from sealserve.enclave.measured import measured_settings, settings_register
    from sealserve.errors import InputError
    from sealserve.evidence import Collateral, parse_quote
    from sealserve.evidence.policy import trust_domain_policy
    from sealserve.files import read_authority_file, write_atomically

    if output.exists():
        raise InputError(f"{output} exists", hint="Name another file, or remove it first.")
    found = read_evidence_file(file)
    if isinstance(found, Collateral):
        raise InputError(f"{file} holds collateral, and no quote")
    # A replica would refuse both, but only once its guest is started.
    if not re.fullmatch(NAME_PATTERN, deployment) or deployment.endswith("\n"):
        raise InputError(
            f"{deployment!r} cannot be the name of a deployment", hint="Give 1 to 64 letters, digits and _ . -"
        )
    register = settings_register(measured_settings(deployment=deployment, broker_ca=read_authority_file(broker_ca)))
    document = trust_domain_policy(parse_quote(found.quote), rtmr3=register, collateral=read_collateral(collateral))
    write_atomically(output, document.to_yaml())
    if as_json:
        click.echo(json.dumps({"policy": str(output), "rtmr3": register.hex()}))
        return
    click.echo(f"{output}: one trust domain, RTMR 3 as of replicas of {deployment}; read it before you use it")
    click.echo("Whether the quote is genuine: " + f"`sealserve evidence verify {file} --policy {output}`")
