"""The script that prepares a machine: packages from signed repositories, quote provider, permissions, clock.

It is text for people to read and then to run as root; nothing here runs it. It can be run again: what is there stays.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Literal

from sealserve.deploy.clouds import packages
from sealserve.deploy.clouds.profile import REGION, CloudProfile
from sealserve.deploy.clouds.qcnl import PATH, render_qcnl
from sealserve.errors import InputError

_PLACE = re.compile("@@([a-z0-9_]+)@@")


def render_setup(
    profile: CloudProfile,
    *,
    tee: Literal["sgx", "tdx"] = "sgx",
    pccs: str | None = None,
    pccs_ca: bytes | None = None,
) -> str:
    """A bash script that prepares a machine of the profile for ``tee``.

    :param pccs: URL of another PCCS than the profile's. :param pccs_ca: certificates in PEM of the authority that
        certified it; the machine will trust it for every program.
    :raises ConfigurationError: the profile needs a region. :raises InputError: ``pccs`` or ``pccs_ca`` is not usable.
    """
    return _tdx(profile) if tee == "tdx" else _sgx(profile, pccs, pccs_ca)


def _sgx(profile: CloudProfile, pccs: str | None, pccs_ca: bytes | None) -> str:
    values = {
        "title": profile.title,
        "name": profile.full_name,
        "systems": "|".join(f"{system.id}:{version}*" for system in profile.systems for version in system.versions),
        "systems_shown": shlex.quote(_systems(profile)),
        "enclave": profile.devices.enclave,
        "provision": profile.devices.provision,
        "aesm_socket": profile.devices.aesm_socket,
        "apt_packages": _folded(packages.APT),
        "intel_repository": packages.INTEL_REPOSITORY,
        "intel_key": packages.INTEL_KEY,
        "intel_fingerprint": packages.INTEL_FINGERPRINT,
        "gramine_repository": packages.GRAMINE_REPOSITORY,
        "gramine_fingerprint_2021": packages.GRAMINE_FINGERPRINT_2021,
        "gramine_fingerprints_2024": " ".join(packages.GRAMINE_FINGERPRINTS_2024),
        "qcnl_path": PATH,
        "qcnl": render_qcnl(profile, pccs=pccs).rstrip("\n"),
    }
    parts = ["sgx-begin", "sgx-apt"]
    steps = ["install_with_apt"]
    if profile.rpm is not None:
        values["rpm_repository"] = shlex.quote((profile.rpm.url or "").replace(REGION, profile.region or ""))
        values["rpm_packages"] = _folded(profile.rpm.packages)
        parts.append("sgx-dnf")
        steps = ["if command -v apt-get >/dev/null; then install_with_apt; else install_with_dnf; fi"]
    if pccs_ca is not None:
        values["pccs_ca"] = _certificates(pccs_ca)
        parts.append("sgx-authority")
        steps.append("trust_pccs_authority")
    values["steps"] = "\n    ".join(steps)
    return "\n".join(_filled(part, values) for part in (*parts, "sgx-end"))


def _tdx(profile: CloudProfile) -> str:
    notes = [f"say {shlex.quote('note: ' + note.replace('`', ''))}" for note in profile.tdx.notes]
    return _filled("tdx", {"title": profile.title, "name": profile.full_name, "notes": "\n    ".join(notes)})


def _filled(name: str, values: Mapping[str, str]) -> str:
    text = resources.files(__package__).joinpath("scripts", f"{name}.sh").read_text(encoding="utf-8")
    return _PLACE.sub(lambda match: values[match[1]], text)


def _folded(names: Iterable[str]) -> str:
    return " \\\n        ".join(names)


def _systems(profile: CloudProfile) -> str:
    return ", ".join(f"{system.id} {' and '.join(system.versions)}" for system in profile.systems)


def _certificates(pem: bytes) -> str:
    from cryptography import x509  # heavy, and rarely needed
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise InputError(
            "the file of the PCCS's authority holds no certificates in PEM",
            hint="It must hold text that begins with -----BEGIN CERTIFICATE-----.",
        ) from None
    # Written anew, so that nothing but certificates gets into the script.
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found).rstrip("\n")
