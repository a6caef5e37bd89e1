"""Which platform a replica runs on, and how it gets its evidence there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sealserve.enclave.measured import measured_settings
from sealserve.errors import InputError
from sealserve.evidence import (
    Attester,
    GramineAttester,
    SimulatedAttester,
    TsmAttester,
    measure_simulated_enclave,
)
from sealserve.logs import event, get_logger

if TYPE_CHECKING:
    from sealserve.enclave.settings import ReplicaSettings

_log = get_logger(__name__)


def create_attester(settings: ReplicaSettings, *, broker_ca: bytes) -> Attester:
    """The attester of this platform, whose evidence has the measured settings in it.

    The host says which platform it is. It gains nothing by a wrong word: evidence says itself what it is of.

    :param broker_ca: PEM.
    :raises InputError: the simulated platform's directory is missing, or named where it means nothing.
    :raises AttestationUnavailableError: this machine is not such a platform.
    :raises TrustError: the settings are not in the evidence.
    """
    if (settings.platform is None) == (settings.tee == "simulated"):
        raise InputError("--platform goes with --tee simulated, and only with it")
    if settings.tee == "sgx":
        return GramineAttester()  # deployment and authority are measured with the manifest
    measured = measured_settings(deployment=settings.deployment, broker_ca=broker_ca)
    if settings.platform is None:
        from sealserve.enclave.trust_domain import measure_settings

        measure_settings(measured)
        event(_log, logging.INFO, "trust-domain", settings="in RTMR 3")
        return TsmAttester()
    enclave = measure_simulated_enclave(measured)
    event(
        _log,
        logging.WARNING,
        "simulated-enclave",
        note="SIMULATED: protects nothing",
        mrenclave=enclave.mrenclave.hex(),
    )
    return SimulatedAttester(settings.platform, enclave)
