"""Collateral from a service: over verified TLS, cached, renewed in time, and never older than what is known."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from collateral_service import Answer, CollateralServer, TestAuthority, fields_of, proxy, serving, wait_until
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA, make_platform

from sealserve.errors import EvidenceError, SealserveError
from sealserve.evidence import Collateral, ServiceCollateral, SimulatedPlatform, TrustRoot, Verifier, service_at
from sealserve.evidence.errors import (
    CollateralError,
    CollateralExpiredError,
    CollateralMalformedError,
    CollateralServiceError,
    CollateralSignatureInvalidError,
    CollateralUntrustedError,
    CollateralUnusableError,
    QuoteMalformedError,
    SignatureInvalidError,
    UntrustedRootError,
)
from sealserve.evidence.service import CollateralCache, HttpClient
from sealserve.evidence.service import http as http_module
from sealserve.evidence.service import source as source_module


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()


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


def the_file(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache").glob("*.json")
    return found


def down(_: CollateralServer, __: str) -> Answer:
    return 500, {}, b"out of order"


# --- fetching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["hex", "der", "pem"])
def test_a_quote_is_verified_with_fetched_collateral(
    make: Any, server: CollateralServer, platform: SimulatedPlatform, quote: bytes, form: str
) -> None:
    server.crl_form = form
    source = make()
    judge = Verifier(TrustRoot.from_der(platform.root_der), source, clock=NOW.timestamp)
    assert judge.verify(quote).tcb_status == "UpToDate"
    assert judge.verify(quote).mrenclave == ENCLAVE.mrenclave
    assert server.requests == [
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/sgx/certification/v4/rootcacrl",
        "/sgx/certification/v4/tcb?fmspc=515EA15E0001",
        "/sgx/certification/v4/qe/identity",
    ]


def test_fetched_collateral_is_the_very_one_that_was_signed(make: Any, server: CollateralServer, quote: bytes) -> None:
    # Blanks and order of members are covered by the signature: nothing may be written anew.
    assert json.loads(make().collateral(quote).text) == server.fields


def test_the_status_tells_dates_and_counts(make: Any, server: CollateralServer, quote: bytes) -> None:
    source = make()
    assert source.status() == ()
    assert source.would_block(quote)
    source.collateral(quote)
    assert not source.would_block(quote)
    (status,) = source.status()
    assert (status.tee, status.fmspc, status.ca) == ("sgx", "515ea15e0001", "platform")
    assert status.fetched_at == NOW
    assert status.expires == NOW - timedelta(minutes=5) + timedelta(days=30)
    assert (status.fetches, status.failures, status.last_error) == (1, 0, None)
    assert status.evaluation_data_number == 20
    assert json.loads(json.dumps(status.as_dict()))["fetched_at"] == NOW.isoformat()


def test_a_service_under_another_authority_is_refused(make: Any, tmp_path: Path, quote: bytes) -> None:
    other = TestAuthority(tmp_path, "other")
    with pytest.raises(CollateralServiceError, match="certificate is not accepted") as caught:
        make(ca=other.pem).collateral(quote)
    assert "`ca`" in (caught.value.hint or "")
    with pytest.raises(CollateralServiceError, match="certificate is not accepted"):
        make(ca=None).collateral(quote)


def test_a_service_with_a_certificate_for_another_name_is_refused(
    make: Any, server: CollateralServer, authority: TestAuthority, quote: bytes
) -> None:
    with serving(CollateralServer(server.fields), authority.context("pccs.example.com")) as elsewhere:
        with pytest.raises(CollateralServiceError, match=r"(?i)certificate is not accepted: .*mismatch"):
            make(url=elsewhere.url).collateral(quote)
        assert elsewhere.requests == []


def test_a_service_without_tls_is_refused(make: Any, server: CollateralServer, quote: bytes) -> None:
    with serving(CollateralServer(server.fields), None) as plain:
        with pytest.raises(CollateralServiceError):
            make(url=plain.url, timeout=1.0).collateral(quote)
        with pytest.raises(ValueError, match="insecure_allow_http"):
            service_at(f"http://127.0.0.1:{plain.port}")
        assert plain.requests == []


def test_plain_http_works_only_where_it_is_called_insecure(
    server: CollateralServer, platform: SimulatedPlatform, quote: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(CollateralServer(server.fields), None) as plain:
        service = service_at(f"http://127.0.0.1:{plain.port}", insecure_allow_http=True)
        assert not service.encrypted
        root = TrustRoot.from_der(platform.root_der)
        strict = ServiceCollateral(service, root=root, http=HttpClient(proxy="none"), clock=Clock())
        with pytest.raises(CollateralServiceError, match="without TLS"):
            strict.collateral(quote)
        with caplog.at_level(logging.WARNING, "sealserve"):
            http = HttpClient(proxy="none", insecure_allow_http=True)
            assert ServiceCollateral(service, root=root, http=http, clock=Clock()).collateral(quote)
    assert caplog.messages.count("insecure-http-used") == 4


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(make: Any, server: CollateralServer, quote: bytes, status: int) -> None:
    def once(service: CollateralServer, path: str) -> Answer | None:
        return (status, {}, b"") if service.requests.count(path) == 1 else None

    server.temper = once
    assert make().collateral(quote)
    assert len(server.requests) == 8


def test_a_lasting_failure_is_told_with_its_status(make: Any, server: CollateralServer, quote: bytes) -> None:
    server.temper = down
    with pytest.raises(CollateralServiceError, match=r"pckcrl: it answers 500") as caught:
        make().collateral(quote)
    assert caught.value.hint
    assert len(server.requests) == 4


@pytest.mark.parametrize("wait", ["3600", "Wed, 01 Jan 2120 00:00:00 GMT"])
def test_a_service_that_asks_for_more_patience_than_there_is_gets_no_more_requests(
    make: Any, server: CollateralServer, quote: bytes, wait: str
) -> None:
    server.temper = lambda _, __: (503, {"Retry-After": wait}, b"")
    with pytest.raises(CollateralServiceError, match="503"):
        make().collateral(quote)
    assert len(server.requests) == 1


def test_the_time_that_a_service_asks_for_is_waited(server: CollateralServer, authority: TestAuthority) -> None:
    pauses: list[float] = []

    def once(service: CollateralServer, _: str) -> Answer | None:
        return (429, {"Retry-After": "7"}, b"") if len(service.requests) == 1 else (200, {}, b"x")

    server.temper = once
    client = HttpClient(ca=authority.pem, proxy="none", pause=pauses.append)
    assert client.get(f"{server.url}/", deadline=time.monotonic() + 60).body == b"x"
    assert pauses == [7.0]


@pytest.mark.parametrize(("value", "least"), [(None, 0), ("", 0), ("soon", 0), ("-5", 0), ("12", 12), ("9" * 50, 1e8)])
def test_a_strange_retry_after_is_no_error(value: str | None, least: float) -> None:
    assert http_module._retry_after(value) >= least


def test_nobody_at_the_address_is_told(make: Any, quote: bytes) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CollateralServiceError, match="the connection failed"):
        make(url=f"https://127.0.0.1:{port}").collateral(quote)


def test_an_unknown_kind_of_platform_is_told(make: Any, server: CollateralServer, quote: bytes) -> None:
    server.temper = lambda _, path: (404, {}, b"") if "tcb" in path else None
    with pytest.raises(CollateralServiceError, match="FMSPC 515EA15E0001"):
        make().collateral(quote)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirection_is_not_followed(make: Any, server: CollateralServer, quote: bytes, status: int) -> None:
    server.temper = lambda service, path: (
        (status, {"Location": f"{service.url}/other"}, b"") if "rootcacrl" in path else None
    )
    with pytest.raises(CollateralServiceError, match="redirection, which is not followed"):
        make().collateral(quote)
    assert "/other" not in server.requests


def test_an_oversized_answer_is_refused(make: Any, server: CollateralServer, quote: bytes) -> None:
    server.temper = lambda _, path: (200, {}, bytes(http_module.ANSWER_LIMIT + 1)) if "rootcacrl" in path else None
    with pytest.raises(CollateralServiceError, match="more than 256 KiB"):
        make().collateral(quote)


def test_a_compressed_answer_is_refused(make: Any, server: CollateralServer, quote: bytes) -> None:
    server.temper = lambda _, path: (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b") if "rootcacrl" in path else None
    with pytest.raises(CollateralServiceError, match="compressed"):
        make().collateral(quote)


def test_a_slow_service_is_waited_for_only_so_long(make: Any, server: CollateralServer, quote: bytes) -> None:
    released = threading.Event()

    def slow(_: CollateralServer, __: str) -> None:
        released.wait(30)

    server.temper = slow
    with pytest.raises(CollateralServiceError, match="in time"):
        make(timeout=0.3).collateral(quote)
    released.set()


def test_a_service_that_never_ends_its_headers_is_not_waited_for(
    make: Any, authority: TestAuthority, quote: bytes
) -> None:
    # It sends a byte now and then, so that no timeout of a single read strikes.
    stop = threading.Event()

    def dribble(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with (
            contextlib.suppress(OSError),
            authority.context("127.0.0.1").wrap_socket(connection, server_side=True) as tls,
        ):
            tls.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not stop.wait(0.02):
                tls.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=dribble, args=(listener,), daemon=True)
        thread.start()
        source = make(url=f"https://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3)
        with pytest.raises(CollateralServiceError, match="does not answer in time"):
            source.collateral(quote)
        stop.set()
        thread.join(5)


# --- what the service gives is not believed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        ("pckcrl", (200, {}, b"00"), CollateralServiceError, "lacks the header SGX-PCK-CRL-Issuer-Chain"),
        ("rootcacrl", (200, {}, b"<html>"), CollateralMalformedError, "root_ca_crl"),
        ("rootcacrl", (200, {}, b"-----BEGIN X509 CRL-----"), CollateralMalformedError, "root CA"),
        ("tcb", (200, {}, b"not JSON"), CollateralMalformedError, "signed tcbInfo"),
        ("tcb", (200, {}, b'{"tcbInfo": {}, "tcbInfo": {}, "signature": "00"}'), CollateralMalformedError, "tcbInfo"),
        ("qe/identity", (200, {}, b'{"signature": "00"}'), CollateralMalformedError, "enclaveIdentity"),
        ("qe/identity", (401, {}, b""), CollateralServiceError, "answers 401"),
    ],
)
def test_an_answer_of_another_form_is_refused(
    make: Any, server: CollateralServer, quote: bytes, case: tuple[str, Answer, type[SealserveError], str]
) -> None:
    part, answer, kind, why = case
    server.temper = lambda _, path: answer if f"/{part}" in path else None
    with pytest.raises(kind, match=why):
        make().collateral(quote)


def test_collateral_that_another_root_signed_is_not_kept(
    make: Any, server: CollateralServer, other_platform: SimulatedPlatform, quote: bytes, tmp_path: Path
) -> None:
    server.fields = fields_of(other_platform, now=NOW)
    with pytest.raises(CollateralUntrustedError, match="gives unusable collateral"):
        make().collateral(quote)
    assert not list(tmp_path.glob("cache/*.json"))


@pytest.mark.parametrize("field", ["tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl"])
def test_collateral_with_a_wrong_signature_is_not_kept(
    make: Any, server: CollateralServer, quote: bytes, tmp_path: Path, field: str
) -> None:
    value = server.fields[field]
    server.fields = {**server.fields, field: value[:-2] + f"{int(value[-2:], 16) ^ 1:02x}"}
    with pytest.raises(CollateralSignatureInvalidError):
        make().collateral(quote)
    assert not list(tmp_path.glob("cache/*.json"))


def test_collateral_for_another_kind_of_platform_is_not_kept(make: Any, server: CollateralServer, quote: bytes) -> None:
    other = make_platform(fmspc=b"abcdef")
    right = server.right_answer
    server.temper = lambda _, path: right("/sgx/certification/v4/tcb?fmspc=616263646566") if "/tcb" in path else None
    server.fields = fields_of(other, now=NOW)
    with pytest.raises((CollateralUnusableError, CollateralUntrustedError)):
        make().collateral(quote)


def test_a_service_with_expired_collateral_alone_is_refused(
    make: Any, server: CollateralServer, platform: SimulatedPlatform, quote: bytes
) -> None:
    server.fields = fields_of(platform, now=NOW - timedelta(days=31))
    with pytest.raises(CollateralExpiredError, match="gives unusable collateral: the TCB info expired"):
        make().collateral(quote)


def test_a_strangers_quote_makes_nobody_ask_the_service(
    make: Any, server: CollateralServer, platform: SimulatedPlatform, other_platform: SimulatedPlatform
) -> None:
    source = make()
    with pytest.raises(UntrustedRootError):
        source.collateral(other_platform.quote(ENCLAVE, REPORT_DATA))
    foreign = other_platform.machine
    chain = foreign.chain_pem.replace(other_platform.root_pem.encode(), platform.root_pem.encode())
    forged = type(foreign)(pck_key=foreign.pck_key, attestation_key=foreign.attestation_key, chain_pem=chain)
    with pytest.raises(SignatureInvalidError, match="not signed by those it names"):
        source.collateral(forged.quote(ENCLAVE, REPORT_DATA))
    with pytest.raises(QuoteMalformedError):
        source.collateral(b"junk")
    assert server.requests == []
    assert source.status() == ()


# --- proxies ------------------------------------------------------------------------------------------------------


def test_a_proxy_of_the_settings_is_used(make: Any, server: CollateralServer, quote: bytes) -> None:
    with proxy() as (url, asked, authorizations):
        assert make(via=url.replace("//", "//user:secret@")).collateral(quote)
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} ")
    assert authorizations[0].endswith("Basic dXNlcjpzZWNyZXQ=")
    assert len(server.requests) == 4


def test_a_proxy_of_the_environment_is_used_but_not_for_its_exceptions(
    make: Any, quote: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with proxy() as (url, asked, _):
        monkeypatch.setenv("HTTPS_PROXY", url)
        assert make(via=None, cache=None).collateral(quote)
        assert asked
        asked.clear()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert make(via=None, cache=None).collateral(quote)
        monkeypatch.delenv("NO_PROXY")
        assert make(via="none", cache=None).collateral(quote)
        assert asked == []


def test_a_proxy_sees_no_way_around_the_services_certificate(make: Any, tmp_path: Path, quote: bytes) -> None:
    other = TestAuthority(tmp_path, "other")
    with proxy() as (url, asked, _):
        with pytest.raises(CollateralServiceError, match="certificate"):
            make(via=url, ca=other.pem).collateral(quote)
        assert asked


def test_a_proxy_that_is_down_is_told_without_its_password(make: Any, quote: bytes) -> None:
    with pytest.raises(CollateralServiceError, match="proxy") as caught:
        make(via="http://user:secret@127.0.0.1:1").collateral(quote)
    assert "secret" not in caught.value.message + (caught.value.hint or "")


# --- the cache ----------------------------------------------------------------------------------------------------


def test_another_process_finds_what_was_fetched(
    make: Any, server: CollateralServer, quote: bytes, tmp_path: Path
) -> None:
    first = make().collateral(quote)
    server.temper = down
    asked = len(server.requests)
    again = make()
    assert not again.would_block(quote)
    assert again.collateral(quote).tcb_info == first.tcb_info
    assert len(server.requests) == asked
    assert the_file(tmp_path).name.startswith("sgx-515ea15e0001-platform-")


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
            wait_until(lambda: source.status()[0].failures == 1)
        assert source.collateral(quote) is known
        assert "collateral-rollback-refused" in caplog.messages
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
