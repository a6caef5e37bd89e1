"""The SGX extension of a PCK certificate, as the simulated platform writes it.

Format: Intel, "SGX PCK Certificate and Certificate Revocation List Profile Specification", section 1.3.5.
"""

from __future__ import annotations

from sealserve.evidence.certificate_chain import SGX_EXTENSION
from sealserve.evidence.simulated import der
from sealserve.evidence.simulated.profile import CURRENT_PCE_SVN, CURRENT_SVNS, PlatformProfile

_SCALABLE = 1  # The SGX type of multi-socket server platforms, whose PCK certificates come from the platform CA.


def sgx_extension(profile: PlatformProfile, *, platform_instance_id: bytes) -> bytes:
    """The extension's value in DER.

    :param platform_instance_id: 16 bytes.
    """
    components = [_entry(f"2.{index}", der.integer(svn)) for index, svn in enumerate(CURRENT_SVNS, start=1)]
    tcb = der.sequence(
        *components, _entry("2.17", der.integer(CURRENT_PCE_SVN)), _entry("2.18", der.octet_string(bytes(CURRENT_SVNS)))
    )
    configuration = der.sequence(
        _entry("7.1", der.boolean(False)),  # dynamic platform
        _entry("7.2", der.boolean(False)),  # cached keys
        _entry("7.3", der.boolean(False)),  # SMT enabled
    )
    return der.sequence(
        _entry("1", der.octet_string(profile.ppid)),
        _entry("2", tcb),
        _entry("3", der.octet_string(b"\0\0")),  # PCEID
        _entry("4", der.octet_string(profile.fmspc)),
        _entry("5", der.enumerated(_SCALABLE)),
        _entry("6", der.octet_string(platform_instance_id)),
        _entry("7", configuration),
    )


def _entry(suffix: str, value: bytes) -> bytes:
    return der.sequence(der.object_identifier(f"{SGX_EXTENSION.dotted_string}.{suffix}"), value)
