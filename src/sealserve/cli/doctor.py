"""``sealserve doctor``: what this machine has and lacks."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(short_help="Say what this machine has and lacks for SGX and TDX.")
@click.option("--cloud", metavar="PROFILE[:REGION]", help="The kind of machine; `sealserve cloud list` has them.")
@click.option("--tee", type=click.Choice(["sgx", "tdx", "simulated"]), help="What it should run; else what it has.")
@click.option(
    "-f",
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A deployment.yaml, whose `cloud` and `tee` count.",
)
@click.option("--pccs", metavar="URL", help="A PCCS in place of the profile's or the machine's own.")
@click.option(
    "--pccs-ca",
    "--ca",
    "ca",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PEM file of the authority that certified the PCCS.",
)
@click.option("--offline", is_flag=True, help="Ask nobody else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    *,
    cloud: str | None,
    tee: str | None,
    file: Path | None,
    pccs: str | None,
    ca: Path | None,
    offline: bool,
    as_json: bool,
) -> int:
    """Say what this machine has and lacks for SGX and TDX, and how to mend it.

    Takes some seconds, changes nothing, and needs no rights; run by root it sees more. The exit code is 6 if replicas
    cannot run here or cannot be attested, and 0 otherwise: also on a machine without SGX and TDX, unless --tee,
    --cloud or the deployment asks for them.
    """
    from sealserve.cli.findings_display import show_findings
    from sealserve.deploy import load_deployment
    from sealserve.deploy.clouds import load_profile
    from sealserve.deploy.doctor import Machine, examine
    from sealserve.errors import MachineError

    if file is not None:
        deployment = load_deployment(file)
        cloud, tee = cloud or deployment.cloud, tee or deployment.tee
    profile = None if cloud is None else load_profile(cloud)
    if profile is not None and pccs is None and not offline:
        profile.require_region()
    report = examine(Machine(), tee=tee, profile=profile, pccs=pccs, ca=ca, offline=offline)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        show_findings(report.findings, works=report.works)
    return 0 if report.ready else MachineError.exit_code
