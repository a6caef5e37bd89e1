"""What ``sealserve doctor`` and ``sealserve k8s doctor`` print for people."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console
from rich.text import Text

from sealserve.cli.evidence_display import Page
from sealserve.deploy.doctor import Finding
from sealserve.logs import printable

_MARKS = {"ok": ("✓", "green"), "note": ("-", "dim"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


def show_findings(findings: Sequence[Finding], *, works: Sequence[str] = ()) -> None:
    """Print findings with what to do about them, which is said once. :param works: what can be done as it is, a line
    for each."""
    page = Page(Console(highlight=False))
    told: set[str] = set()
    for finding in findings:
        mark, style = _MARKS[finding.level]
        page.prose(f"{finding.check}: {finding.text}", indent="  ", first=Text(f"{mark} ", style))
        if not finding.mend or finding.mend in told:
            continue
        told.add(finding.mend)
        if finding.mend.endswith("."):
            page.prose(finding.mend, indent="    ", style="cyan")
        else:
            click.secho(f"    {printable(finding.mend)}", fg="cyan")  # whole, to be copied
    if works:
        page.title("What works here")
    for line in works:
        page.prose(line, indent="  ", first=Text("- "))
