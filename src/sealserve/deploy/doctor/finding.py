"""One thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sealserve.deploy.clouds import CloudProfile
from sealserve.deploy.doctor.machine import Machine
from sealserve.evidence.service import HttpClient

Level = Literal["ok", "note", "warning", "problem"]
"""``problem``: replicas cannot run, or cannot be attested. ``warning``: they can, and something should be mended.
``note``: it does not matter for what was asked about."""

Tee = Literal["sgx", "tdx", "simulated"]


@dataclass(frozen=True)
class Finding:
    """What was found.

    :param check: a stable name for scripts, in kebab case. :param mend: a command, or what else to do about it.
    """

    check: str
    level: Level
    text: str
    mend: str | None = None

    def as_dict(self) -> dict[str, str]:
        """A JSON-ready form."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Question:
    """What is asked about which machine.

    :param pccs: URL of a PCCS, in place of the profile's or the machine's own. :param offline: nobody else is asked.
    :param http: how others are asked; none where the package for it is not installed.
    """

    machine: Machine
    tee: Tee
    profile: CloudProfile | None = None
    pccs: str | None = None
    offline: bool = False
    http: HttpClient | None = None

    def needed_for(self, *tees: Tee) -> Level:
        """The level of something that is missing and that ``tees`` cannot do without."""
        return "problem" if self.tee in tees else "note"

    @property
    def setup(self) -> str:
        """The command that prepares such a machine."""
        name = self.profile.full_name if self.profile is not None else "bare-metal"
        tee = " --tee tdx" if self.tee == "tdx" else ""
        return f"sealserve cloud setup {name}{tee} --output setup.sh && sudo bash setup.sh"


Probe = Callable[[Question], Iterator[Finding]]
