"""What a policy demands of a TDX trust domain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sealserve.errors import ConfigurationError
from sealserve.evidence.errors import MeasurementRefusedError
from sealserve.evidence.verified import VerifiedEvidence

TD_MEASUREMENT_SIZE = 48


@dataclass(frozen=True)
class TrustDomainReference:
    """A TDX trust domain with these measurements. What is none is not judged.

    MRTD measures the firmware alone. What the firmware starts is in the RTMRs: 1 and 2 have the kernel, its command
    line and its initial file system.

    :param mrtd: 48 bytes. :param rtmrs: 48 bytes each. :param mr_config_id: 48 bytes; so have the two owners.
    :param attributes: 8 bytes, exactly. :param xfam: 8 bytes, exactly.
    """

    mrtd: bytes
    rtmrs: tuple[bytes | None, bytes | None, bytes | None, bytes | None] = (None, None, None, None)
    mr_config_id: bytes | None = None
    mr_owner: bytes | None = None
    mr_owner_config: bytes | None = None
    attributes: bytes | None = None
    xfam: bytes | None = None
    step: str = "measurement"

    def __post_init__(self) -> None:
        for name, value, size in self._demands():
            if len(value) != size:
                raise ConfigurationError(f"{name} has {len(value)} bytes, and must have {size}")

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge the trust domain's measurements and attributes."""
        domain = evidence.trust_domain
        if domain is None:
            raise MeasurementRefusedError(["MRTD is missing: the evidence is not of a trust domain"])
        found = {
            "MRTD": domain.mrtd,
            **{f"RTMR{index}": value for index, value in enumerate(domain.rtmrs)},
            "MRCONFIGID": domain.mr_config_id,
            "MROWNER": domain.mr_owner,
            "MROWNERCONFIG": domain.mr_owner_config,
            "TDATTRIBUTES": domain.attributes,
            "XFAM": domain.xfam,
        }
        demands = list(self._demands())
        reasons = [
            f"{name} is {found[name].hex()}, not {value.hex()}" for name, value, _ in demands if found[name] != value
        ]
        if reasons:
            raise MeasurementRefusedError(reasons)
        judged = [name for name, _, _ in demands]
        ignored = [name for name in found if name.startswith("RTMR") and name not in judged]
        tail = f"; {', '.join(ignored)} not judged" if ignored else ""
        return f"MRTD {self.mrtd.hex()}" + "".join(f", {name}" for name in judged[1:]) + tail

    @property
    def pins_software(self) -> bool:
        """Whether more is pinned than the firmware, which starts whatever it is given."""
        return self.rtmrs[1] is not None and self.rtmrs[2] is not None

    @property
    def pins_settings(self) -> bool:
        """Whether RTMR 3 is pinned, where a replica's settings are."""
        return self.rtmrs[3] is not None

    def _demands(self) -> Iterator[tuple[str, bytes, int]]:
        """Name, value and size of what is judged."""
        size = TD_MEASUREMENT_SIZE
        named: list[tuple[str, bytes | None, int]] = [
            ("MRTD", self.mrtd, size),
            *((f"RTMR{index}", value, size) for index, value in enumerate(self.rtmrs)),
            ("MRCONFIGID", self.mr_config_id, size),
            ("MROWNER", self.mr_owner, size),
            ("MROWNERCONFIG", self.mr_owner_config, size),
            ("TDATTRIBUTES", self.attributes, 8),
            ("XFAM", self.xfam, 8),
        ]
        for name, value, wanted in named:
            if value is not None:
                yield name, value, wanted
