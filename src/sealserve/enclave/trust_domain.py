"""A replica in a TDX guest puts its measured settings where its evidence shows them: into RTMR 3.

The guest's image is in MRTD and RTMR 0 to 2, and may serve any deployment. What tells one deployment from another comes
from outside, perhaps from the host, and must be in the evidence as well (``docs/tdx.md``, ADR 88).

The register is read through the kernel, which asks the processor, and not out of a quote: quotes come by way of the
host, which may give out made-up ones until somebody verifies them.

Interface: Linux, ``Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest`` (6.16 and later). The file holds 48
bytes; 48 bytes written to it extend the register.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Mapping
from pathlib import Path

from sealserve.enclave.measured import settings_digest, settings_register
from sealserve.errors import TrustError
from sealserve.evidence.errors import AttestationUnavailableError

REGISTER = Path("/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")
_SIZE = 48


class SettingsNotMeasuredError(TrustError):
    """The trust domain's evidence says, and will go on to say, other settings than this replica has."""


def measure_settings(settings: Mapping[str, str], register: Path = REGISTER) -> None:
    """Extend RTMR 3 with the settings, or see that it has them already.

    Registers can only be extended: a guest that has run a replica serves this deployment until it is started anew.

    :param settings: of :func:`~sealserve.enclave.measured.measured_settings`. :param register: the register's file.
    :raises SettingsNotMeasuredError: the register has something else.
    :raises AttestationUnavailableError: the kernel does not give the register to this process.
    """
    try:
        with register.open("r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # of replicas that start together, one extends it
            if file.read(_SIZE) == bytes(_SIZE):
                file.seek(0)
                file.write(settings_digest(settings))
            file.seek(0)
            found = file.read(_SIZE)
    except OSError as error:
        raise _unavailable(error, register) from error
    if found != settings_register(settings):
        raise SettingsNotMeasuredError(
            "RTMR 3 of this guest says other settings than this replica's deployment and broker CA",
            hint="Registers can only be extended. Start the guest anew, and let nothing else use RTMR 3.",
        )


def _unavailable(error: OSError, register: Path) -> AttestationUnavailableError:
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return AttestationUnavailableError(
            f"this process may not extend RTMR 3: {register}: {error.strerror}",
            hint="The kernel lets root alone do it. A systemd unit must not have ProtectKernelTunables=.",
        )
    return AttestationUnavailableError(
        f"the kernel does not offer RTMR 3: {register}: {error.strerror}",
        hint="It takes a TDX guest with Linux 6.16 or later (CONFIG_TSM_MEASUREMENTS), and `modprobe tdx_guest`. "
        "Elsewhere, try things out with tee: simulated.",
    )
