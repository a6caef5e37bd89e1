"""A simulated SGX platform in memory: an authority, one machine under it, and how they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.evidence.measurement import SimulatedEnclave
from sealserve.evidence.simulated.authority import SimulatedAuthority
from sealserve.evidence.simulated.certificates import pem
from sealserve.evidence.simulated.machine import SimulatedMachine
from sealserve.evidence.simulated.profile import (
    CERTIFICATE_VALIDITY,
    COLLATERAL_VALIDITY,
    ROOT_CRL_VALIDITY,
    PlatformProfile,
)

_BACKDATED = timedelta(minutes=5)  # Clocks of a verifier elsewhere may be a little behind.


@dataclass(frozen=True)
class SimulatedPlatform:
    """All of a simulated platform. It protects nothing: whoever has its keys can claim to be any enclave."""

    profile: PlatformProfile
    authority: SimulatedAuthority
    machine: SimulatedMachine

    @classmethod
    def generate(
        cls,
        profile: PlatformProfile | None = None,
        *,
        now: datetime | None = None,
        pck_validity: timedelta = CERTIFICATE_VALIDITY,
    ) -> SimulatedPlatform:
        """A new platform with fresh keys.

        :param now: when its certificates become valid (a little earlier); the present if not given.
        :param pck_validity: how long the PCK certificate is valid.
        """
        profile = profile or PlatformProfile()
        start = (now or datetime.now(UTC)) - _BACKDATED
        authority = SimulatedAuthority.generate(profile, not_before=start)
        machine = SimulatedMachine.generate(profile, authority, not_before=start, validity=pck_validity)
        return cls(profile=profile, authority=authority, machine=machine)

    @property
    def root_der(self) -> bytes:
        """The root certificate in DER."""
        return self.authority.root.public_bytes(Encoding.DER)

    @property
    def root_pem(self) -> str:
        """The root certificate in PEM."""
        return pem(self.authority.root)

    def collateral_json(
        self,
        *,
        now: datetime | None = None,
        validity: timedelta = COLLATERAL_VALIDITY,
        root_crl_validity: timedelta = ROOT_CRL_VALIDITY,
        profile: PlatformProfile | None = None,
    ) -> str:
        """Fresh collateral, see :meth:`SimulatedAuthority.collateral`.

        :param now: when it is issued (a little earlier). :param profile: judge the machine by another profile than its
        own.
        """
        return self.authority.collateral(
            profile or self.profile,
            pck_serial=self.machine.pck_serial,
            issued=(now or datetime.now(UTC)) - _BACKDATED,
            validity=validity,
            root_crl_validity=root_crl_validity,
        )

    def quote(self, enclave: SimulatedEnclave, report_data: bytes) -> bytes:
        """An SGX quote, see :meth:`SimulatedMachine.quote`."""
        return self.machine.quote(enclave, report_data)
