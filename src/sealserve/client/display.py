"""What the client's commands print for people, on terminals from 60 columns on, and in pipes without wrapping."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from sealserve.client.attestation import VerifiedReplica
from sealserve.client.labels import Ranked
from sealserve.client.messages import Prediction
from sealserve.client.receipt_report import ReceiptReport
from sealserve.client.report import Check, Report
from sealserve.client.status import printable
from sealserve.errors import SealserveError
from sealserve.evidence import TrustDomain

SIMULATED = "SIMULATED - NO PROTECTION"

_MARK = 8  # columns of the outcome
_ENOUGH = 40  # columns that a detail should have
_UNWRAPPED = 1_000_000
_MARKS = {"ok": ("ok", "green"), "failed": ("FAILED", "bold red"), "skipped": ("-", "dim")}
Array = np.ndarray[Any, np.dtype[Any]]


def show_report(console: Console, report: Report) -> None:
    """Print every check of a report, and the outcome."""
    console.print(
        Text.assemble(
            "Checking " if report.live else "Checking what was kept of ",
            (report.target, "bold"),
            f" as {report.server_name}",
        )
    )
    if report.evidence is not None and report.evidence.simulated:
        console.print(_simulated_banner())
    console.print()
    _show_checks(console, report.checks)
    if report.evidence is not None and report.evidence.trust_domain is not None:
        _show_trust_domain(console, report.evidence.trust_domain)
    _show_outcome(console, report)


def show_receipt(console: Console, report: ReceiptReport, name: str) -> None:
    """Print every check of a receipt, and the outcome."""
    console.print(Text.assemble("Checking the receipt in ", (name, "bold")))
    if report.evidence is not None and report.evidence.simulated:
        console.print(_simulated_banner())
    console.print()
    _show_checks(console, report.checks)
    statement = report.statement
    if not report.accepted or statement is None or report.claims is None:
        console.print(Text("REFUSED", "bold red"))
        _show_error(console, report.error)
        return
    model = " ".join(printable(statement.model).split())  # one line
    console.print(
        Text.assemble(
            ("ACCEPTED", "bold green"),
            f"  {model} version {statement.version} answered, on {report.claims.replica}",
        )
    )
    console.print(Text(f"Model digest {statement.digest.hex()}"))
    console.print(Text(f"The evidence was judged as of {report.judged_on}, with the collateral in the file."))
    if report.evidence is not None and report.evidence.simulated:
        console.print(Text("This platform is simulated: whoever runs it can sign what they like.", "yellow"))


def _show_checks(console: Console, checks: Sequence[Check]) -> None:
    titles = max((len(check.title) for check in checks), default=0)
    # Beside their titles where there is room for it, else below them.
    width = _width(console)
    beside = width >= _MARK + titles + 2 + _ENOUGH
    indent = _MARK + titles + 2 if beside else _MARK
    for check in checks:
        mark, style = _MARKS[check.outcome]
        lines = textwrap.wrap(check.detail, max(width - indent, 20)) or [""]
        head = Text.assemble((f"{mark:<{_MARK}}", style), (check.title, "" if beside else "bold"))
        if beside:
            head.append(" " * (indent - len(head)) + lines.pop(0))
        _print(console, head)
        for line in lines:
            _print(console, Text(" " * indent + line))
    console.print()


def _show_trust_domain(console: Console, domain: TrustDomain) -> None:
    """The registers, whole: the policy may judge some of them only."""
    console.print(Text("The trust domain's measurements", "bold"))
    for name, value in (("MRTD", domain.mrtd), *((f"RTMR{at}", value) for at, value in enumerate(domain.rtmrs))):
        _print(console, Text(f"{name}  {value.hex()}"))
    console.print()


def _show_outcome(console: Console, report: Report) -> None:
    milliseconds = f"{report.seconds * 1000:.0f} ms"
    if report.accepted and report.claims is not None:
        console.print(
            Text.assemble(
                ("ACCEPTED", "bold green"),
                "" if report.live else " AS KEPT EVIDENCE",
                f"  {report.claims.replica or 'a replica'}, in {milliseconds}",
            )
        )
        if report.evidence is not None:
            expires = report.evidence.collateral_expires.strftime("%Y-%m-%d %H:%M UTC")
            console.print(Text(f"Judged with collateral that is valid until {expires}."))
            if report.evidence.simulated:
                console.print(Text("This platform is simulated: whoever runs it can read what you send.", "yellow"))
        return
    console.print(Text.assemble(("REFUSED", "bold red"), f"  in {milliseconds}"))
    _show_error(console, report.error)


def _show_error(console: Console, error: SealserveError | None) -> None:
    if error is not None:
        for text in filter(None, (error.message, error.hint)):
            for line in text.splitlines():
                for piece in textwrap.wrap(line, _width(console), break_long_words=False, break_on_hyphens=False):
                    _print(console, Text(piece))


def show_verified(console: Console, replica: VerifiedReplica) -> None:
    """Print in one or two lines who was checked before anything was sent."""
    evidence = replica.evidence
    found = f": {evidence.short_identity}, {evidence.tcb_status}"
    console.print(Text.assemble(("checked ", "green"), (replica.name, "bold"), found))
    if evidence.simulated:
        console.print(_simulated_banner())


def show_ranking(console: Console, name: str, prediction: Prediction, ranking: Sequence[Ranked]) -> None:
    """Print the best classes of one picture."""
    _show_head(console, name, prediction)
    shares = all(0 <= entry.score <= 1 for entry in ranking)
    for entry in ranking:
        score = f"{entry.score * 100:6.1f} %" if shares else f"{entry.score:8.3f}"
        label = entry.label if entry.label is not None else f"class {entry.index}"
        _print(console, Text.assemble(("  " + score, "cyan"), f"  {label}"))


def show_outputs(console: Console, name: str, prediction: Prediction, outputs: Mapping[str, Array]) -> None:
    """Print arrays, long ones shortened."""
    _show_head(console, name, prediction)
    for output, array in outputs.items():
        shape = "x".join(map(str, array.shape)) or "scalar"
        text = np.array2string(array, threshold=60, edgeitems=4, max_line_width=max(console.width - 4, 20))
        console.print(Text(f"  {output}  {array.dtype} {shape}", "bold"))
        _print(console, Text(textwrap.indent(text, "    ")))


def _show_head(console: Console, name: str, prediction: Prediction) -> None:
    console.print(
        Text.assemble(
            (name, "bold"),
            f"  answered by {prediction.replica}, model version {prediction.model_version}, ",
            (f"{prediction.seconds * 1000:.0f} ms", "dim"),
        )
    )


def _width(console: Console) -> int:
    """Where prose is wrapped: nowhere in a pipe, unless COLUMNS says where."""
    return console.width if console.is_terminal or os.environ.get("COLUMNS") else _UNWRAPPED


def _print(console: Console, text: Text) -> None:
    """Print lines that are cut already, without blanks at their ends."""
    text.rstrip()
    console.print(text, soft_wrap=True)


def _simulated_banner() -> Text:
    return Text(SIMULATED, "bold black on yellow")
