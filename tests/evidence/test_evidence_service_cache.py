"""Collateral from a service is cached, renewed in time, and never older than what is known."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from collateral_service import (
    Answer,
    Clock,
    CollateralServer,
    TestAuthority,
    down,
    fields_of,
    wait_until,
)
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA, make_platform

from sealserve.errors import EvidenceError
from sealserve.evidence import Collateral, ServiceCollateral, SimulatedPlatform, TrustRoot
from sealserve.evidence.errors import (
    CollateralError,
    CollateralExpiredError,
    CollateralServiceError,
)
from sealserve.evidence.service import CollateralCache


def the_file(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache").glob("*.json")
    return found


def test_another_process_finds_what_was_fetched(
    make: Any, server: CollateralServer, quote: bytes, tmp_path: Path
) -> None:
    first = make().collateral(quote)
    server.temper = down
    asked = len(server.requests)
    again = make()
    assert again.would_block(quote)  # for the disk
    assert again.collateral(quote).tcb_info == first.tcb_info
    assert not again.would_block(quote)
    assert len(server.requests) == asked
    assert the_file(tmp_path).name.startswith("sgx-515ea15e0001-platform-")


def test_a_cache_that_hangs_keeps_nobody_waiting_who_may_not_wait(
    make: Any, server: CollateralServer, quote: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().collateral(quote)
    again, reading, hangs = make(), threading.Event(), threading.Event()

    def read(*_: object) -> None:
        reading.set()
        hangs.wait(30)

    monkeypatch.setattr(CollateralCache, "read", read)
    reader = threading.Thread(target=again.collateral, args=(quote,))
    reader.start()
    try:
        assert reading.wait(10)
        assert again.would_block(quote)
        assert not hangs.is_set()
    finally:
        hangs.set()
        reader.join()


def test_valid_collateral_serves_while_the_service_is_down(
    make: Any, server: CollateralServer, quote: bytes, impatient: None
) -> None:
    clock = Clock()
    source = make(clock=clock)
    source.collateral(quote)
    server.temper = down
    clock.now = NOW + timedelta(days=29)
    assert source.collateral(quote)
    wait_until(lambda: source.status()[0].failures > 0)
    assert source.collateral(quote)
    assert "500" in (source.status()[0].last_error or "")


def test_expired_collateral_is_refused_and_the_services_failure_is_named(
    make: Any, server: CollateralServer, quote: bytes, impatient: None
) -> None:
    clock = Clock()
    make(clock=clock).collateral(quote)
    server.temper = down
    clock.now = NOW + timedelta(days=31)
    source = make(clock=clock)
    for _ in range(2):
        with pytest.raises(CollateralExpiredError, match="expired at 2026-08-31") as caught:
            source.collateral(quote)
        assert "answers 500" in (caught.value.hint or "")


def test_an_expired_set_is_replaced_when_it_is_needed(
    make: Any, server: CollateralServer, platform: SimulatedPlatform, quote: bytes
) -> None:
    clock = Clock()
    source = make(clock=clock)
    source.collateral(quote)
    clock.now = NOW + timedelta(days=40)
    server.fields = fields_of(platform, now=clock.now)
    assert source.collateral(quote).expires > clock.now


@pytest.mark.parametrize("days", [1.01, 25])
def test_what_is_due_is_renewed_in_the_background(
    make: Any, server: CollateralServer, platform: SimulatedPlatform, quote: bytes, days: float
) -> None:
    clock = Clock()
    source = make(clock=clock)
    old = source.collateral(quote)
    clock.now = NOW + timedelta(days=days)
    server.fields = fields_of(platform, now=clock.now)
    assert source.collateral(quote) is old  # at once
    wait_until(lambda: source.status()[0].fetches == 2)
    assert source.collateral(quote).tcb_info.validity.not_before > old.tcb_info.validity.not_before


def test_the_last_quarter_of_the_validity_is_time_to_renew(
    make: Any, server: CollateralServer, platform: SimulatedPlatform, quote: bytes
) -> None:
    clock = Clock()
    source = make(clock=clock, refresh_after=timedelta(days=30))
    source.collateral(quote)
    clock.now = NOW + timedelta(days=22)
    assert source.refresh_due() == 0
    clock.now = NOW + timedelta(days=23)
    server.fields = fields_of(platform, now=clock.now)
    assert source.refresh_due() == 1
    assert source.status()[0].fetches == 2


def test_a_renewal_delays_no_verification(make: Any, server: CollateralServer, quote: bytes) -> None:
    clock = Clock()
    source = make(clock=clock)
    source.collateral(quote)
    released = threading.Event()

    def slow(_: CollateralServer, __: str) -> None:
        released.wait(30)

    server.temper = slow
    clock.now = NOW + timedelta(days=2)
    for _ in range(20):
        assert source.collateral(quote)  # would end at the test's time limit if it waited
    wait_until(lambda: len(server.requests) == 5)
    released.set()
    wait_until(lambda: source.status()[0].fetches == 2)
    assert len(server.requests) == 8


def test_what_is_fresh_is_not_renewed(make: Any, server: CollateralServer, quote: bytes) -> None:
    clock = Clock()
    source = make(clock=clock)
    for hours in range(24):
        clock.now = NOW + timedelta(hours=hours)
        source.collateral(quote)
    assert source.refresh_due() == 0
    assert len(server.requests) == 4


def test_a_loop_can_renew_without_anybody_asking(
    make: Any, server: CollateralServer, platform: SimulatedPlatform, quote: bytes, impatient: None
) -> None:
    clock = Clock()
    source = make(clock=clock)
    source.collateral(quote)
    clock.now = NOW + timedelta(days=2)
    server.temper = down
    assert source.refresh_due() == 1
    assert source.status()[0].last_error
    server.temper = None
    server.fields = fields_of(platform, now=clock.now)
    assert source.refresh_due() == 1
    assert source.status()[0].last_error is None
    assert source.status()[0].fetched_at == clock.now


def test_after_a_failure_the_service_is_left_alone_for_a_while(
    make: Any, server: CollateralServer, quote: bytes
) -> None:
    server.temper = down
    source = make()
    for _ in range(10):
        with pytest.raises(CollateralServiceError, match="answers 500"):
            source.collateral(quote)
    assert len(server.requests) == 4


def test_many_at_once_fetch_once(make: Any, server: CollateralServer, quote: bytes) -> None:
    sources = [make() for _ in range(3)]  # as three processes would share a directory
    gate = threading.Barrier(12)
    found: list[Collateral] = []

    def ask(index: int) -> None:
        gate.wait()
        found.append(sources[index % 3].collateral(quote))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len({collateral.tcb_info.validity for collateral in found}) == 1
    assert len(server.requests) == 4


_PROCESS = """
import sys
from datetime import datetime
from pathlib import Path
from sealserve.evidence import ServiceCollateral, TrustRoot, service_at
from sealserve.evidence.service import CollateralCache, HttpClient
url, ca, root, cache, quote, now = sys.argv[1:]
source = ServiceCollateral(
    service_at(url), root=TrustRoot.from_pem(Path(root)), http=HttpClient(ca=Path(ca), proxy="none"),
    cache=CollateralCache(Path(cache)), clock=lambda: datetime.fromisoformat(now).timestamp(),
)
print(source.collateral(Path(quote).read_bytes()).tcb_info.evaluation_data_number)
"""


def test_several_processes_fetch_once(
    server: CollateralServer, authority: TestAuthority, platform: SimulatedPlatform, quote: bytes, tmp_path: Path
) -> None:
    (tmp_path / "root.pem").write_text(platform.root_pem)
    (tmp_path / "quote").write_bytes(quote)
    paths = [authority.pem, tmp_path / "root.pem", tmp_path / "cache", tmp_path / "quote"]
    command = [sys.executable, "-c", _PROCESS, server.url, *map(str, paths), NOW.isoformat()]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == ["20\n"] * 3
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" + data,
        lambda data: b"[]",
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
        lambda data: data.replace(b"fetched_at", b"fetched-at"),
        lambda data: data.replace(b"2026-08-01T12", b"once upon a time "),
        lambda data: data.replace(b'"tcb_info_signature": "', b'"tcb_info_signature": "f'),
        lambda data: data.replace(b"UpToDate", b"OutOfDat"),
        lambda data: bytes(3 << 20),
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(
    make: Any, server: CollateralServer, quote: bytes, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    make().collateral(quote)
    path = the_file(tmp_path)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert path.read_bytes() != good
    assert make().would_block(quote)
    assert make().collateral(quote)
    assert len(server.requests) == 8
    assert path.read_bytes() == good


def test_a_file_of_another_root_is_not_used(
    make: Any, server: CollateralServer, other_platform: SimulatedPlatform, quote: bytes, tmp_path: Path
) -> None:
    make().collateral(quote)
    entry = json.loads(the_file(tmp_path).read_text())
    entry["collateral"] = fields_of(other_platform, now=NOW)
    the_file(tmp_path).write_text(json.dumps(entry))
    make().collateral(quote)
    assert len(server.requests) == 8


def test_a_directory_that_cannot_be_written_stops_nobody(
    make: Any, quote: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    with caplog.at_level(logging.WARNING, "sealserve"):
        assert make().collateral(quote)
    assert "collateral-cache-not-written" in caplog.messages


def test_without_a_directory_memory_serves(make: Any, server: CollateralServer, quote: bytes) -> None:
    source = make(cache=None)
    assert source.collateral(quote) is source.collateral(quote)
    assert len(server.requests) == 4


def test_a_clock_that_was_ahead_is_no_reason_to_keep_old_collateral(
    make: Any, server: CollateralServer, quote: bytes, tmp_path: Path
) -> None:
    make(clock=Clock(NOW + timedelta(days=3))).collateral(quote)
    source = make()
    assert source.collateral(quote)
    wait_until(lambda: source.status()[0].fetches == 1)
    assert source.status()[0].fetched_at == NOW


# --- going backwards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["evaluation-number", "issue-date", "revocation-list"])
def test_older_collateral_does_not_replace_newer(
    make: Any, server: CollateralServer, quote: bytes, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    new = make_platform(tcb_evaluation_data_number=21)
    fields = fields_of(new, now=NOW)
    clock = Clock()
    with serving_platform(make, server, new, fields, clock) as source:
        quote = new.quote(ENCLAVE, REPORT_DATA)
        known = source.collateral(quote)
        clock.now = NOW + timedelta(days=2)
        if what == "evaluation-number":
            profile = type(new.profile)(**{**vars(new.profile), "tcb_evaluation_data_number": 20})
            server.fields = json.loads(new.collateral_json(now=clock.now, profile=profile))
        elif what == "issue-date":
            server.fields = fields_of(new, now=NOW - timedelta(days=1))
        else:
            server.fields = {**fields, "pck_crl": fields_of(new, now=NOW - timedelta(days=1))["pck_crl"]}
        with caplog.at_level(logging.WARNING, "sealserve"):
            assert source.collateral(quote) is known
            wait_until(lambda: "collateral-rollback-refused" in caplog.messages)
        assert source.collateral(quote) is known
        assert source.status()[0].failures == 1
        assert "older than what is known" in (source.status()[0].last_error or "")


def test_older_collateral_is_taken_once_the_newer_has_expired(
    make: Any, server: CollateralServer, caplog: pytest.LogCaptureFixture
) -> None:
    new = make_platform(tcb_evaluation_data_number=21)
    clock = Clock()
    with serving_platform(make, server, new, fields_of(new, now=NOW), clock) as source:
        quote = new.quote(ENCLAVE, REPORT_DATA)
        source.collateral(quote)
        clock.now = NOW + timedelta(days=31)
        profile = type(new.profile)(**{**vars(new.profile), "tcb_evaluation_data_number": 20})
        server.fields = json.loads(new.collateral_json(now=clock.now, profile=profile))
        with caplog.at_level(logging.WARNING, "sealserve"):
            assert source.collateral(quote).tcb_info.evaluation_data_number == 20
        assert "collateral-went-backwards" in caplog.messages


class serving_platform:  # noqa: N801 - reads as a function
    """The service with another platform's collateral, and a source that believes that platform's root."""

    def __init__(
        self, make: Any, server: CollateralServer, platform: SimulatedPlatform, fields: dict[str, str], clock: Clock
    ) -> None:
        server.fields = fields
        self._source = make(clock=clock)
        self._source._root = TrustRoot.from_der(platform.root_der)

    def __enter__(self) -> ServiceCollateral:
        return self._source

    def __exit__(self, *_: object) -> None:
        self._source.close()


def test_every_refusal_of_a_source_is_of_our_tree(make: Any, server: CollateralServer, quote: bytes) -> None:
    def broken(_: CollateralServer, __: str) -> Answer:
        return 200, {"SGX-PCK-CRL-Issuer-Chain": "%ff%fe"}, b"\x00\xff"

    server.temper = broken
    with pytest.raises((EvidenceError, CollateralError, CollateralServiceError)):
        make().collateral(quote)
