"""Collateral from a provisioning certification service: Intel's (PCS), or a cache of it (PCCS), over verified TLS.

:class:`ServiceCollateral` stands behind :class:`~sealserve.evidence.collateral.CollateralSource` like a file does. What
it fetches is signed by Intel and is checked like any other collateral; the service can withhold it, and nothing more.
"""

from __future__ import annotations

from sealserve.evidence.service.addresses import Service, named_services, service_at
from sealserve.evidence.service.cache import CollateralCache
from sealserve.evidence.service.http import HttpClient
from sealserve.evidence.service.platforms import PlatformKey
from sealserve.evidence.service.source import ServiceCollateral
from sealserve.evidence.service.state import PlatformStatus

__all__ = [
    "CollateralCache",
    "HttpClient",
    "PlatformKey",
    "PlatformStatus",
    "Service",
    "ServiceCollateral",
    "named_services",
    "service_at",
]
