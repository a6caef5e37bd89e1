"""All probes at once, each bounded in time; none of them can end the examination."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealserve.deploy.clouds import CloudProfile
from sealserve.deploy.doctor.attestation import examine_aesm, examine_quote_provider
from sealserve.deploy.doctor.clock import examine_synchronization
from sealserve.deploy.doctor.cpu import examine_cpu, examine_memory
from sealserve.deploy.doctor.devices import examine_devices
from sealserve.deploy.doctor.finding import Finding, Probe, Question, Tee
from sealserve.deploy.doctor.machine import Machine
from sealserve.deploy.doctor.programs import examine_engine, examine_gramine
from sealserve.deploy.doctor.service import examine_service
from sealserve.deploy.doctor.tdx import examine_tdx
from sealserve.evidence.service import HttpClient

SECONDS = 8.5
"""How long the whole may take: with the start of the program less than 10 seconds."""

PROBES: dict[str, Probe] = {
    "sgx": examine_cpu,
    "sgx-devices": examine_devices,
    "aesm": examine_aesm,
    "quote-provider": examine_quote_provider,
    "tdx-guest": examine_tdx,
    "pccs": examine_service,
    "clock-synchronization": examine_synchronization,
    "memory": examine_memory,
    "gramine": examine_gramine,
    "container-engine": examine_engine,
}


@dataclass(frozen=True)
class Report:
    """What was found.

    :param tee: what it was looked at for. :param works: what can be done on this machine as it is.
    """

    tee: Tee
    profile: str | None
    findings: tuple[Finding, ...]
    works: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether replicas of this kind can run here and be attested."""
        return all(finding.level != "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "tee": self.tee,
            "cloud": self.profile,
            "ready": self.ready,
            "works": list(self.works),
            "findings": [finding.as_dict() for finding in self.findings],
        }


def examine(
    machine: Machine,
    *,
    tee: Tee | None = None,
    profile: CloudProfile | None = None,
    pccs: str | None = None,
    ca: Path | None = None,
    offline: bool = False,
    seconds: float = SECONDS,
) -> Report:
    """Look at a machine. Nothing about the machine raises.

    :param tee: what it should run; what it has if not given. :param profile: the kind of machine it should be, with its
        region. :param pccs: URL of a PCCS, in place of the profile's or the machine's own. :param ca: PEM file of the
        authority that certified it; the system's if not given. :param offline: nobody else is asked.
    :param seconds: how long it may take; probes that take longer are findings.
    :raises ConfigurationError: ``ca`` holds no certificates.
    """
    question = Question(machine, tee or _has(machine, profile), profile, pccs, offline, _http(ca))
    results: dict[str, list[Finding]] = {}
    threads = [
        threading.Thread(target=_look, args=(name, probe, question, results), name=f"doctor-{name}", daemon=True)
        for name, probe in PROBES.items()
    ]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    findings = []
    for name in PROBES:
        late = Finding(name, question.needed_for("sgx", "tdx"), f"looking took longer than {seconds:g} s")
        findings += results.get(name, [late])
    return Report(
        question.tee, None if profile is None else profile.full_name, tuple(findings), _works(question.tee, findings)
    )


def _http(ca: Path | None) -> HttpClient | None:
    try:
        return HttpClient(ca=ca)
    except ModuleNotFoundError:  # urllib3 comes with the extras
        return None


def _has(machine: Machine, profile: CloudProfile | None) -> Tee:
    flags = machine.cpu_flags
    if "tdx_guest" in flags:
        return "tdx"
    return "sgx" if "sgx" in flags or profile is not None else "simulated"


def _look(name: str, probe: Probe, question: Question, results: dict[str, list[Finding]]) -> None:
    try:
        results[name] = list(probe(question))
    except Exception as error:  # noqa: BLE001 - a machine is strange in ways that nobody thought of
        text = f"looking failed ({type(error).__name__})"
        results[name] = [Finding(name, question.needed_for("sgx", "tdx"), text)]


def _works(tee: Tee, findings: list[Finding]) -> tuple[str, ...]:
    works = []
    if tee != "simulated" and all(finding.level != "problem" for finding in findings):
        works.append(f"attested replicas in {'SGX' if tee == 'sgx' else 'TDX'} (tee: {tee})")
    works.append("the simulated platform (tee: simulated), which protects nothing: sealserve demo, sealserve up")
    works.append("the owner's and the client's side: sealing, the key broker, asking replicas elsewhere")
    if all(finding.check != "collateral" or finding.level != "ok" for finding in findings):
        works[-1] += "; to verify SGX and TDX evidence, policies need a file of collateral, or a service that answers"
    return tuple(works)
