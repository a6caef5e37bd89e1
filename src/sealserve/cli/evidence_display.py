"""What ``sealserve evidence`` prints for people, on terminals from 60 columns on and in pipes.

Prose is wrapped at the terminal's width, and not in pipes (unless COLUMNS is set).
Values that one copies, such as measurements, are never broken.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from sealserve.evidence.appraisal import Appraisal
from sealserve.evidence.errors import EvidenceRefusedError
from sealserve.evidence.explanations import TCB_MEANINGS, advisory_address, attribute_names
from sealserve.evidence.verified import VerifiedEvidence
from sealserve.logs import printable

SIMULATED = "SIMULATED, NO PROTECTION"

_MARKS = {"ok": ("✓", "green"), "failed": ("✗", "bold red"), "skipped": ("-", "dim")}
_LEAST_WIDTH = 40
_UNWRAPPED = 1_000_000
_TITLES = {
    "tee": "TEE",
    "fmspc": "FMSPC",
    "ppid": "PPID",
    "cpu_svn": "CPU SVN",
    "pce_svn": "PCE SVN",
    "isv_prod_id": "ISV_PROD_ID",
    "isv_svn": "ISV_SVN",
    "mrenclave": "MRENCLAVE",
    "mrsigner": "MRSIGNER",
    "mrtd": "MRTD",
    "mr_config_id": "MRCONFIGID",
    "mr_owner": "MROWNER",
    "mr_owner_config": "MROWNERCONFIG",
    "xfam": "XFAM",
    **{f"rtmr{index}": f"RTMR{index}" for index in range(4)},
}


class Page:
    """Prints titles, values and prose."""

    def __init__(self, console: Console) -> None:
        self._console = console
        wrapped = console.is_terminal or os.environ.get("COLUMNS")
        self._width = max(console.width, _LEAST_WIDTH) if wrapped else _UNWRAPPED

    def title(self, text: str) -> None:
        """A blank line and a title."""
        self._print(Text(""))
        self._print(Text(text, "bold"))

    def prose(self, text: str, *, indent: str = "", first: Text | None = None, style: str = "") -> None:
        """A paragraph; ``first`` stands before it, in the width of ``indent``."""
        text = printable(text)  # certificates and quotes say what their makers liked
        lines = textwrap.wrap(text, self._width - len(indent), break_long_words=False, break_on_hyphens=False) or [""]
        head = first if first is not None else Text(indent)
        self._print(Text.assemble(head, (lines[0], style)))
        for line in lines[1:]:
            self._print(Text(indent + line, style))

    def value(self, name: str, value: str, *, indent: str = "  ") -> None:
        """A name and a value, below each other where the line is too short."""
        value = printable(value)
        if len(indent) + len(name) + 2 + len(value) <= self._width:
            self._print(Text.assemble(indent, (name, "cyan"), f": {value}"))
        elif " " in value:
            self._print(Text.assemble(indent, (name, "cyan"), ":"))
            self.prose(value, indent=indent + "  ")
        else:
            self._print(Text.assemble(indent, (name, "cyan"), ":"))
            self._print(Text(f"{indent}  {value}"))

    def values(self, values: Mapping[str, Any], *, indent: str = "  ") -> None:
        """Names and values; sections are indented."""
        for key, value in values.items():
            name = _TITLES.get(key, key.replace("_", " "))
            if isinstance(value, Mapping):
                self._print(Text.assemble(indent, (name, "cyan"), ":"))
                self.values(value, indent=indent + "  ")
            elif isinstance(value, list):
                self.value(name, ", ".join(map(str, value)) or "none", indent=indent)
            else:
                self.value(name, _plain(value), indent=indent)

    def banner(self, text: str) -> None:
        """Something nobody must overlook."""
        self._print(Text(text, "bold black on yellow"))

    def dates(self, validities: Iterable[Mapping[str, str]], now: datetime) -> None:
        """From when to when each part is valid, the one that ends first at the top."""
        for validity in sorted(validities, key=lambda item: item["not_after"]):
            start, end = (datetime.fromisoformat(validity[key]) for key in ("not_before", "not_after"))
            days = (end - now).days
            if now > end:
                left, style = "EXPIRED", "bold red"
            elif now < start:
                left, style = "NOT VALID YET", "bold red"
            else:
                left, style = f"{days} day{'' if days == 1 else 's'} left", "dim" if days > 3 else "yellow"
            self._print(
                Text.assemble("  ", (f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}", ""), "  ", (left, style))
            )
            self.prose(validity["part"], indent="    ")

    def _print(self, text: Text) -> None:
        text.rstrip()
        self._console.print(text, soft_wrap=True)


def show_quote(page: Page, described: Mapping[str, Any], kind: str) -> None:
    """Explain a quote that nobody verified."""
    page.prose(f"This is {kind}.")
    if described["simulated"]:
        page.banner(SIMULATED)
    described = dict(described)
    certificates = described.pop("certificates")
    sections = {name: described.pop(name) for name in ("machine", "quoting_enclave")}
    described.pop("source", None)
    page.title("Enclave" if described["tee"] == "sgx" else "Trust domain")
    page.values(described)
    if described["debug"]:
        page.prose("It runs in debug mode: the host can read its memory. No policy accepts it.", indent="  ")
    page.title("Machine")
    page.values(sections["machine"])
    page.title("Quoting enclave, which signed it")
    page.values(sections["quoting_enclave"])
    page.title("Certificates of the machine")
    for certificate in certificates:
        page.prose(certificate["subject"], indent="  ")
        page.values({key: value for key, value in certificate.items() if key != "subject"}, indent="    ")
    page.title("Nothing of this is verified.")
    page.prose("`sealserve evidence verify` does that.")


def show_collateral(page: Page, described: Mapping[str, Any]) -> None:
    """Explain a set of collateral that nobody verified."""
    page.prose("This is collateral: what quotes of one kind of platform are judged with.")
    page.title("Collateral")
    page.values({key: value for key, value in described.items() if key != "validities"})
    page.title("Dates (UTC)")
    page.dates(described["validities"], datetime.now(UTC))
    page.title("Nothing of this is verified.")
    page.prose("A policy that names it does that with every quote.")


def show_appraisal(page: Page, appraisal: Appraisal, *, kind: str, binding: str, now: datetime) -> None:
    """Print each check, what the evidence says, the dates, and the outcome with its reasons.

    :param kind: what the evidence was found in. :param binding: what it was made for, if it is accepted.
    """
    evidence = appraisal.evidence
    page.prose(f"This is {kind}.")
    if evidence is not None and evidence.simulated:
        page.banner(SIMULATED)
    page.title("Checks")
    for step in appraisal.steps:
        if step.name == "result":
            continue
        mark, style = _MARKS[step.outcome]
        page.prose(f"{step.title}: {step.detail}", indent="  ", first=Text.assemble((f"{mark} ", style)))
    if evidence is not None:
        _show_evidence(page, evidence)
    if appraisal.validities:
        page.title("Dates (UTC)")
        page.dates([validity.as_dict() for validity in appraisal.validities], now)
    _show_outcome(page, appraisal, binding)


def _show_evidence(page: Page, evidence: VerifiedEvidence) -> None:
    told = evidence.as_dict()
    domain = told.get("trust_domain")
    page.title("Trust domain" if domain else "Enclave")
    if domain:
        rtmrs = {f"rtmr{index}": value for index, value in enumerate(domain.pop("rtmrs"))}
        page.values({"mrtd": domain.pop("mrtd"), **rtmrs, **domain})
    else:
        page.values({name: told[name] for name in ("mrenclave", "mrsigner", "isv_prod_id", "isv_svn", "attributes")})
    page.values(
        {
            "attribute_names": attribute_names(evidence.tee, evidence.attributes),
            "debug": evidence.debug,
            "report_data": told["report_data"],
        }
    )
    page.title("Platform")
    page.values({"tee": evidence.tee.upper(), "ppid": told["ppid"], "fmspc": told["fmspc"], "root": evidence.root})
    if evidence.own_root:
        page.values({"root_fingerprint": told["root_fingerprint"]})
    page.title("TCB")
    _show_status(page, "status", evidence.tcb_status)
    if evidence.qe_tcb_status != evidence.tcb_status:
        _show_status(page, "of the quoting enclave", evidence.qe_tcb_status)
    page.value("level of", f"{evidence.tcb_date:%Y-%m-%d}")
    page.value("evaluation data number", str(evidence.tcb_evaluation_data_number))
    if not evidence.advisory_ids:
        page.value("advisories", "none")
    for identifier in evidence.advisory_ids:
        address = advisory_address(identifier)
        page.value("advisory", identifier)
        if address is not None:
            page.prose(address, indent="    ")


def _show_status(page: Page, name: str, status: str) -> None:
    meaning = TCB_MEANINGS.get(status)
    page.value(name, f"{status}: {meaning}" if meaning else status)


def _show_outcome(page: Page, appraisal: Appraisal, binding: str) -> None:
    error = appraisal.error
    if error is None:
        bound = appraisal.accepted
        page.title("ACCEPTED" if bound else "NOT ACCEPTED: genuine, but bound to nothing")
        if bound:
            page.prose(f"It was made for {binding}.")
        if appraisal.evidence is not None and appraisal.evidence.simulated:
            page.prose("The platform is simulated: it protects nothing.", style="yellow")
        return
    page.title("REFUSED")
    if isinstance(error, EvidenceRefusedError):
        page.prose("The evidence is genuine, and the policy does not accept it:")
        for reason in error.reasons:
            page.prose(reason, indent="  ", first=Text("- "))
    else:
        page.prose(error.message)
    if error.hint:
        page.prose(error.hint)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
