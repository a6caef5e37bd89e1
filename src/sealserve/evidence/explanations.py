"""What the words of evidence mean, for people who do not read Intel's manuals."""

from __future__ import annotations

import re

TCB_MEANINGS = {
    "UpToDate": "the platform has every fix that the collateral knows of.",
    "SWHardeningNeeded": "the platform has the fixes, and enclaves must protect themselves against the advisories by "
    "how they are compiled.",
    "ConfigurationNeeded": "the platform has the fixes, and its settings may leave it open to the advisories: "
    "see them for the BIOS settings.",
    "ConfigurationAndSWHardeningNeeded": "the platform's settings may leave it open to the advisories, and enclaves "
    "must protect themselves by how they are compiled.",
    "OutOfDate": "the platform lacks fixes against known attacks. Its operator must update firmware or microcode.",
    "OutOfDateConfigurationNeeded": "the platform lacks fixes against known attacks, and its settings may leave it "
    "open, too.",
    "Revoked": "the platform's keys are known to have leaked.",
}
"""TCB statuses of Intel's "Provisioning Certification Service" documentation, in a sentence."""

# Bits of the first 8 bytes, little-endian. SGX: Intel SDM volume 3D, "ATTRIBUTES". TDX: Intel TDX Module, "ATTRIBUTES".
_SGX_ATTRIBUTES = {
    0: "INIT",
    1: "DEBUG",
    2: "MODE64BIT",
    4: "PROVISION_KEY",
    5: "EINITTOKEN_KEY",
    6: "CET",
    7: "KSS",
    10: "AEX_NOTIFY",
}
_TD_ATTRIBUTES = {0: "DEBUG", 28: "SEPT_VE_DISABLE", 29: "MIGRATABLE", 30: "PKS", 31: "KL", 63: "PERFMON"}

_INTEL_ADVISORY = re.compile(r"INTEL-SA-[0-9]{5}")


def attribute_names(tee: str, attributes: bytes) -> list[str]:
    """The names of the attributes that are set; a bit without a name is told by its number."""
    names = _SGX_ATTRIBUTES if tee == "sgx" else _TD_ATTRIBUTES
    flags = int.from_bytes(attributes[:8], "little")
    return [names.get(bit, f"bit {bit}") for bit in range(64) if flags >> bit & 1]


def advisory_address(identifier: str) -> str | None:
    """Where an advisory of Intel's can be read; none for others."""
    if _INTEL_ADVISORY.fullmatch(identifier) is None:
        return None
    return f"https://www.intel.com/content/www/us/en/security-center/advisory/{identifier.lower()}.html"
