"""The attester of a simulated platform."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sealserve.evidence.measurement import SimulatedEnclave
from sealserve.evidence.simulated.directory import load_simulated_machine


class SimulatedAttester:
    """Quotes of a simulated enclave. They are well-formed and prove nothing, see :mod:`sealserve.evidence.simulated`.

    :param platform_dir: the platform's directory. :param enclave: who this process says it is.
    :raises InputError: there is no platform in the directory.
    """

    tee: Literal["simulated"] = "simulated"

    def __init__(self, platform_dir: Path, enclave: SimulatedEnclave) -> None:
        self._machine = load_simulated_machine(platform_dir)
        self._enclave = enclave

    def quote(self, report_data: bytes) -> bytes:
        """A quote over ``report_data`` (64 bytes). Safe for several threads.

        :raises AttestationError: ``report_data`` has another size.
        """
        return self._machine.quote(self._enclave, report_data)
