"""``sealserve image``: images of replicas in SGX enclaves, their manifests and measurements."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say
from sealserve.cli.image_build import build, pin, render, run, sign
from sealserve.cli.image_push import model, push, save
from sealserve.errors import TrustError
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.deploy.images.difference import Difference
    from sealserve.deploy.images.lint import Finding, Rule
    from sealserve.deploy.images.measuring import Measured
    from sealserve.deploy.images.reference_values import Accept

_path = click.Path(path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.group(short_help="Render, build, sign, judge and measure images.")
def image() -> None:
    """Images of replicas and key brokers: make them, judge them, and know what enclaves in them measure to."""


for _command in (render, build, sign, run, push, save, model, pin):
    image.add_command(_command)


@image.command(short_help="Print the manifest of a deployment's replicas.")
@deployment_option
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An unpacked image, or / inside one: trust only what the replica loads of it.",
)
@click.option("--model-size", type=click.IntRange(min=1), metavar="BYTES", help="Size of the model, if it is not here.")
@click.option("--epc", metavar="SIZE", help="Protected memory of the machine, such as 64G; warn if it is too little.")
@click.option("--policy", type=_file, help="Warn if this policy would refuse every replica of the image.")
def manifest(
    *, file: Path, output: Path | None, root: Path | None, model_size: int | None, epc: str | None, policy: Path | None
) -> None:
    """Print the Gramine manifest of a deployment's replicas, explained line by line."""
    from sealserve.deploy import load_deployment
    from sealserve.deploy.images.rendering import render
    from sealserve.files import write_atomically

    text, warnings = render(load_deployment(file), root=root, model_size=model_size, epc=epc, policy=policy)
    for warning in warnings:
        say("warning", "yellow", warning)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomically(output, text)
        click.echo(f"wrote {printable(str(output))}")


@image.command(short_help="Explain the weaknesses of a Gramine manifest.")
@click.argument("file", type=_file)
@_json
def lint(*, file: Path, as_json: bool) -> int:
    """Explain the weaknesses of a Gramine manifest, signed manifest or manifest template, whoever wrote it.

    Ends with 4 if one of them is an error: what the enclave promises is void then.
    """
    from sealserve.deploy.images.lint import lint as find
    from sealserve.deploy.images.lint import read_manifest

    read = read_manifest(file)
    findings = find(read)
    errors = [finding for finding in findings if finding.rule.severity == "error"]
    if as_json:
        shown = [finding.as_dict() for finding in findings]
        click.echo(json.dumps({"file": str(file), "template": read.is_template, "findings": shown}))
    else:
        for rule in dict.fromkeys(finding.rule for finding in findings):
            _show_rule(file, rule, [finding for finding in findings if finding.rule == rule])
        counts = {severity: sum(finding.rule.severity == severity for finding in findings) for severity in _COLOURS}
        text = [f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts.items() if count]
        click.echo(", ".join(text) or "no weakness found")
    return TrustError.exit_code if errors else 0


@image.command(short_help="Read what a signed image measures to.")
@click.argument("path", type=_path)
@_json
@click.option("--diff", "other", type=_path, metavar="PATH", help="Say what changed since this build.")
@click.option(
    "--policy",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Have this appraisal policy accept the image; a file that is not there is made.",
)
@click.option(
    "--accept",
    type=click.Choice(["build", "signer"]),
    default="build",
    show_default=True,
    help="With --policy: this very build, or the signer's product from this security version on.",
)
def measure(*, path: Path, as_json: bool, other: Path | None, policy: Path | None, accept: Accept) -> None:
    """Print what a signed image measures to: MRENCLAVE, MRSIGNER, product, security version, attributes.

    PATH is the .sig file that signing wrote, or the directory with it. Its signature is checked.
    """
    from sealserve.deploy.images import measuring
    from sealserve.deploy.images.reference_values import add_reference

    measured = measuring.measure(path)
    before = None if other is None else measuring.measure(other)
    changes = None if before is None else measuring.difference(before, measured)
    done = None
    if policy is not None:
        done = add_reference(policy, measured.sigstruct, accept=accept, source=measured.title)
    if as_json:
        out: dict[str, Any] = {"file": str(measured.path), **measured.sigstruct.as_dict()}
        out |= {"diff": changes.as_dict()} if changes is not None else {}
        out |= {"policy": str(policy), "result": done} if policy is not None else {}
        click.echo(json.dumps(out))
        return
    _show_measured(measured)
    if before is not None and changes is not None:
        _show_changes(before, measured, changes)
    if done is not None:
        click.echo(printable(done))


def _show_rule(file: Path, rule: Rule, findings: list[Finding]) -> None:
    click.secho(f"{rule.severity}: {rule.name}", fg=_COLOURS[rule.severity], bold=True)
    for finding in findings:
        click.echo(printable(f"  {file}:{finding.line}: {finding.key}: {finding.what}"))
    width = min(100, shutil.get_terminal_size().columns)
    for line in (rule.meaning, f"Mend: {rule.mend}"):
        click.echo(click.wrap_text(line, width=width, initial_indent="    ", subsequent_indent="    "))


def _show_measured(measured: Measured) -> None:
    from sealserve.evidence.explanations import attribute_names

    signed = measured.sigstruct
    values = {
        "MRENCLAVE": signed.mrenclave.hex(),
        "MRSIGNER": signed.mrsigner.hex(),
        "ISVPRODID": str(signed.isv_prod_id),
        "ISVSVN": str(signed.isv_svn),
        "attributes": f"{signed.attributes.hex()} ({', '.join(attribute_names('sgx', signed.attributes))})",
        "mask": signed.attributes_mask.hex(),
        "MISCSELECT": f"{signed.misc_select:08x}, mask {signed.misc_mask:08x}",
        "signed": signed.date or "on no date that is told",
    }
    for name, value in values.items():
        click.echo(f"{name:<11} {value}")
    if signed.debug_allowed:
        how = "DEBUG ENCLAVE" if signed.debug else "MAY BE STARTED AS A DEBUG ENCLAVE"
        say("warning", "red", f"{how}: the host reads its memory. No policy accepts it.", "Set sgx.debug = false.")


def _show_changes(before: Measured, after: Measured, changes: Difference) -> None:
    same = before.sigstruct.mrenclave == after.sigstruct.mrenclave
    if not changes:
        click.echo("no measured file and no setting changed")
        if not same:
            click.echo("MRENCLAVE did: Gramine itself (libpal.so) is another")
        return
    for mark, uris in (("+", changes.added), ("-", changes.removed), ("~", changes.changed)):
        for uri in uris:
            click.echo(printable(f"{mark} {uri}"))
    for key, (old, new) in changes.settings.items():
        click.echo(printable(f"~ {key}: {_value(old)} -> {_value(new)}"))


def _value(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)
