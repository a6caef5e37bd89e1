"""Collateral from a service: over verified TLS, and only what it should say."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
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
    proxy,
    serving,
)
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA, make_platform

from sealserve.errors import SealserveError
from sealserve.evidence import ServiceCollateral, SimulatedPlatform, TrustRoot, Verifier, service_at
from sealserve.evidence.errors import (
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
from sealserve.evidence.service import HttpClient
from sealserve.evidence.service import http as http_module

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


def test_an_answer_that_comes_byte_by_byte_must_be_whole_in_time() -> None:
    stop = threading.Event()

    def dribble(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stop.wait(0.02):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=dribble, args=(listener,), daemon=True)
        thread.start()
        http = HttpClient(proxy="none", insecure_allow_http=True)
        started = time.monotonic()
        with pytest.raises(CollateralServiceError, match="no whole answer in time"):
            http.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", deadline=started + 0.2)
        assert time.monotonic() - started < 5
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
