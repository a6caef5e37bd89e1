"""The service that has collateral: asked over verified TLS, judged by what it gives, and it tells the time."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from collateral_service import CollateralServer, TestAuthority, fields_of, serving
from stand_in_machine import StandIn

from sealserve.deploy.clouds import load_profile
from sealserve.deploy.doctor import Finding, Machine, Report, clock, examine, service
from sealserve.deploy.doctor.finding import Question
from sealserve.evidence import PlatformProfile, SimulatedPlatform

Ask = Callable[..., Report]
NO_MACHINE = Machine(Path("/nonexistent"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def fields() -> dict[str, str]:
    now = datetime.now(UTC)
    return fields_of(SimulatedPlatform.generate(PlatformProfile(), now=now), now=now)


@pytest.fixture
def server(fields: dict[str, str], authority: TestAuthority) -> Iterator[CollateralServer]:
    with serving(CollateralServer(dict(fields)), authority.context("127.0.0.1")) as found:
        yield found


@pytest.fixture
def ask(
    tmp_path: Path, authority: TestAuthority, server: CollateralServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ask]:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    # Nobody waits for a service that is not there.
    monkeypatch.setattr(service, "SECONDS", 0.5)
    stand_in = StandIn(tmp_path)

    def asked(pccs: str | None = None, *, ca: Path | None = authority.pem, **settings: Any) -> Report:
        return examine(stand_in.machine(), pccs=pccs or server.url, ca=ca, **settings)

    yield asked
    stand_in.close()


def _free_port() -> int:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        return int(nobody.getsockname()[1])


def finding(report: Report, check: str) -> Finding:
    found = [item for item in report.findings if item.check == check]
    assert len(found) == 1, report.findings
    return found[0]


def test_a_service_that_answers_is_fine(ask: Ask) -> None:
    report = ask()
    assert report.ready, report.findings
    assert finding(report, "pccs").level == "ok"
    assert finding(report, "collateral").level == "ok"
    assert finding(report, "clock").level == "ok"
    assert "need a file" not in report.works[-1]


def test_a_certificate_of_a_strange_authority_is_a_problem(ask: Ask) -> None:
    report = ask(ca=None)
    assert finding(report, "pccs").level == "problem"
    assert "certificate" in finding(report, "pccs").text
    assert not report.ready


def test_a_service_that_is_down_is_a_problem_for_sgx_and_none_for_the_simulated_platform(
    ask: Ask,
) -> None:
    url = f"https://127.0.0.1:{_free_port()}"
    before = time.monotonic()
    report = ask(url)
    assert finding(report, "pccs").level == "problem"
    assert str(finding(report, "pccs").mend)
    assert time.monotonic() - before < 8
    simulated = ask(url, tee="simulated")
    assert finding(simulated, "pccs").level == "note"
    assert simulated.ready
    assert "need a file" in simulated.works[-1]


def test_http_is_not_spoken(ask: Ask, server: CollateralServer) -> None:
    report = ask(server.url.replace("https", "http"))
    assert "https" in finding(report, "pccs").text
    assert server.requests == []


@pytest.mark.parametrize(("days", "level"), [(-1, "problem"), (1, "warning"), (10, "ok")])
def test_collateral_is_judged_by_the_part_that_ends_first(
    ask: Ask, server: CollateralServer, days: int, level: str
) -> None:
    identity = server.fields["qe_identity"]
    begin = identity.index('"nextUpdate":"') + len('"nextUpdate":"')
    end = datetime.now(UTC) + timedelta(days=days)
    server.fields["qe_identity"] = f"{identity[:begin]}{end:%Y-%m-%dT%H:%M:%SZ}{identity[begin + 20 :]}"
    found = finding(ask(), "collateral")
    assert found.level == level, found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<html>",
        b"\xff" * 100,
        b'{"enclaveIdentity":1,"signature":"00"}',
        b'{"enclaveIdentity":{"nextUpdate":"9999-12-31T23:59:59-14:00"},"signature":"00"}',
    ],
    ids=["nothing", "empty", "page", "binary", "number", "time beyond all calendars"],
)
def test_another_answer_than_collateral_is_a_problem(ask: Ask, server: CollateralServer, body: bytes) -> None:
    server.temper = lambda _server, path: (200, {}, body) if "qe/identity" in path else None
    report = ask()
    assert finding(report, "collateral").level == "problem"
    assert not any("looking failed" in item.text for item in report.findings)


def test_a_profile_names_the_service_to_ask() -> None:
    for name, pccs in [
        ("azure-dcsv3", "https://global.acccache.azure.net/sgx/certification/v4/"),
        ("tencent-m6ce:sh", "https://sgx-dcap-server-tc.sh.tencent.cn/sgx/certification/v4/"),
    ]:
        question = Question(NO_MACHINE, "sgx", load_profile(name))
        assert service._addresses(question)[0] == ("pccs", pccs)


@pytest.mark.parametrize(
    ("seconds", "level"), [(0, "ok"), (4, "ok"), (-4, "ok"), (30, "warning"), (-30, "warning"), (3600, "problem")]
)
def test_the_clock_is_compared_with_the_services(seconds: int, level: str) -> None:
    now = 1_800_000_000.0
    header = format_datetime(datetime.fromtimestamp(now + seconds, UTC), usegmt=True)
    found = clock.judge_offset(Question(NO_MACHINE, "sgx"), header, now, now)
    assert found is not None
    assert found.level == level
    if level != "ok":
        assert ("behind" if seconds > 0 else "ahead") in found.text


@pytest.mark.parametrize("header", [None, "", "yesterday", "Thu, 99 Zzz 2026 00:00:00 GMT"])
def test_an_answer_without_a_date_says_nothing_about_the_clock(header: str | None) -> None:
    assert clock.judge_offset(Question(NO_MACHINE, "sgx"), header, 0, 0) is None


def test_an_installation_without_the_package_for_requests_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    for tee, level in (("simulated", "note"), ("tdx", "warning")):
        found = finding(examine(Machine(tmp_path), tee=tee), "pccs")  # type: ignore[arg-type]
        assert (found.level, found.mend) == (level, "pip install '.[client]'")
