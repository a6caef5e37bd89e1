from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from collateral_service import (
    Clock,
    CollateralServer,
    TestAuthority,
    fields_of,
    serving,
)
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA, make_platform

from sealserve.evidence import ServiceCollateral, SimulatedPlatform, TrustRoot, service_at
from sealserve.evidence.service import CollateralCache, HttpClient
from sealserve.evidence.service import source as source_module


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    """An up-to-date simulated platform."""
    return make_platform()


@pytest.fixture(scope="session")
def other_platform() -> SimulatedPlatform:
    """A platform under another simulated root."""
    return make_platform()


@pytest.fixture(scope="session")
def quote(platform: SimulatedPlatform) -> bytes:
    """A good quote."""
    return platform.quote(ENCLAVE, REPORT_DATA)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture
def server(platform: SimulatedPlatform, authority: TestAuthority) -> Iterator[CollateralServer]:
    with serving(CollateralServer(fields_of(platform, now=NOW)), authority.context("127.0.0.1")) as service:
        yield service


@pytest.fixture
def make(
    platform: SimulatedPlatform, authority: TestAuthority, tmp_path: Path, server: CollateralServer
) -> Callable[..., ServiceCollateral]:
    def source(
        *,
        url: str | None = None,
        ca: Path | None = authority.pem,
        via: str | None = "none",
        cache: Path | None = tmp_path / "cache",
        clock: Clock | None = None,
        **settings: Any,
    ) -> ServiceCollateral:
        return ServiceCollateral(
            service_at(url or server.url),
            root=TrustRoot.from_der(platform.root_der),
            http=HttpClient(ca=ca, proxy=via, pause=lambda _: None),
            cache=CollateralCache(cache) if cache is not None else None,
            clock=clock or Clock(),
            **settings,
        )

    return source


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two attempts."""
    for name in ("_PAUSE_NEEDED", "_PAUSE_FIRST", "_PAUSE_LONGEST"):
        monkeypatch.setattr(source_module, name, 0.0)
