"""Requests that nobody honest sends, and browsers that are used by others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
import zlib
from datetime import UTC, datetime, timedelta

import pytest
from admin_parties import add_admin, administered, eventually, make_token, raw, trusting
from broker_parties import Place, in_loop, name_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealserve.broker.admin import server
from sealserve.broker.admin.app import BODY_LIMIT
from sealserve.broker.admin.bodies import KeyBody, checked, json_object
from sealserve.broker.admin.problems import HttpError
from sealserve.broker.admin.protection import _matches, names_of
from sealserve.broker.messages import ALPN
from sealserve.errors import InputError
from sealserve.ratls import TlsIdentity
from sealserve.ratls.contexts import SignedByAuthority, client_context
from sealserve.ratls.stream import TlsConnectionError, connect


@pytest.fixture
def operated(place: Place) -> tuple[Place, str]:
    add_admin(place)
    return place, make_token(place)


def test_bodies_that_are_too_large_no_json_or_wrong_are_refused(operated: tuple[Place, str]) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (_, http):
            wrong: list[tuple[bytes, int]] = [
                (b"x" * (BODY_LIMIT + 1), 413),
                (b"", 400),
                (b"{", 400),
                (b"[" * 100_000, 400),
                (b"\xff\xfe", 400),
                (b"[]", 422),
                (b"null", 422),
                (b'{"name": 1}', 422),
                (b'{"name": "a/b"}', 422),
                (b'{"name": "x\\ny"}', 422),
                (b'{"name": "' + b"x" * 65 + b'"}', 422),
                (b'{"name": "x", "value": "y"}', 422),
            ]
            for sent, status in wrong:
                answer = await http("POST", "/v1/keys", sent, Content_Type="application/json")
                assert (answer.status, bool(answer.reason)) == (status, True), sent[:40]
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
                assert (await http("POST", "/v1/keys", b'{"name": "x"}', Content_Type=kind)).status == 415
            for value in ("AA==", "!", "", "QUFB" * 40):
                answer = await http("POST", "/v1/keys/wrap/import", {"value": value})
                assert answer.status == 422
                assert not value or value not in answer.body.decode()
            # Nothing of it was done, and the server is well.
            assert {key["name"] for key in (await http.get("/v1/keys"))["items"]} == {"wrap", "second"}

    in_loop(body)


def test_a_compressed_bomb_is_not_unpacked(operated: tuple[Place, str]) -> None:
    place, token = operated
    bomb = zlib.compress(b" " * (64 << 20))

    async def body() -> None:
        async with administered(place, token) as (_, http):
            answer = await http("POST", "/v1/keys", bomb, Content_Type="application/json", Content_Encoding="deflate")
            assert answer.status in {400, 413}

    in_loop(body)


STRANGE: list[tuple[bytes, int | None]] = [
    (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n", 404),
    (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n", 404),
    (b"GET /console/../../x HTTP/1.1\r\nHost: localhost\r\n", 404),
    (b"GET /v1/keys/..%2f..%2fetc HTTP/1.1\r\nHost: localhost\r\n", 404),
    (b"GET /v1/keys/%00 HTTP/1.1\r\nHost: localhost\r\n", 404),
    (b"GET //console.js HTTP/1.1\r\nHost: localhost\r\n", 404),
    (b"TRACE / HTTP/1.1\r\nHost: localhost\r\n", 405),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n", 405),
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\n", 421),
    (b"GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n", 421),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n", 421),
    (b"GET / HTTP/1.1\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", None),
    (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n", 421),
    (b"GET /healthz HTTP/1.1\r\nHost: 10.1.2.3:4434\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: [::1]:4434\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: LOCALHOST\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: a\r\n" % n for n in range(500)), 400),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX : a\r\n", 400),
    (b"PRI * HTTP/2.0\r\n", 400),
    (b"\x00\x01\x02", 400),
]


def test_strange_requests_get_a_plain_refusal(operated: tuple[Place, str]) -> None:
    place, _ = operated

    async def body() -> None:
        async with administered(place) as (broker, http):
            for head, status in STRANGE:
                answer = await raw(place, broker, head + b"Connection: close\r\n\r\n")
                assert answer.startswith(b"HTTP/1."), (head[:80], answer[:80])
                assert b"root:" not in answer
                assert b"Traceback" not in answer
                found = int(answer.split()[1])
                assert found == status or (status is None and found >= 400), (head[:80], answer[:300])
            assert (await http("GET", "/healthz")).status == 200

    in_loop(body)


def test_every_answer_protects_the_browser(operated: tuple[Place, str]) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (_, http):
            for path in (
                "/",
                "/console.js",
                "/healthz",
                "/readyz",
                "/metrics",
                "/v1/keys",
                "/none",
                "/v1/audit/export",
            ):
                headers = (await http("GET", path)).headers
                policy = headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["X-Frame-Options"] == "DENY"
                assert headers["Strict-Transport-Security"].startswith("max-age=")
                assert headers["Server"] == "sealserve"
                assert "Set-Cookie" not in headers
                assert not any(name.startswith("Access-Control") for name in headers)
                assert headers["Cache-Control"] in {"no-store", "no-cache"}

    in_loop(body)


def test_a_page_of_another_origin_can_cause_nothing(operated: tuple[Place, str]) -> None:
    place, token = operated
    others = [
        *({"Origin": origin} for origin in ("https://evil.example", "null", "http://localhost", "https://localhost:1")),
        *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site")),
    ]

    async def body() -> None:
        async with administered(place, token) as (_, http):
            for headers in others:
                for method, path in (("POST", "/v1/keys"), ("GET", "/v1/keys"), ("GET", "/metrics")):
                    answer = await http(method, path, {"name": "x"} if method == "POST" else None, **headers)
                    assert (answer.status, answer.reason) == (403, "other-origin"), headers
                assert (await http("GET", "/", **headers)).status == 200, "a link may lead here"
            own = {"Origin": http.base, "Sec-Fetch-Site": "same-origin"}
            assert (await http("POST", "/v1/keys", {"name": "x"}, **own)).status == 201

    in_loop(body)


def test_silent_and_slow_clients_are_cut_off(operated: tuple[Place, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, token = operated
    monkeypatch.setattr(server, "_IDLE_SECONDS", 0.6)
    monkeypatch.setattr("sealserve.broker.admin.app._BODY_SECONDS", 0.6)

    async def dribble(place: Place, port: int, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(
            "localhost", port, ssl=trusting(place), server_hostname="localhost"
        )
        try:
            for number in range(100):
                writer.write(sent[number % len(sent) : number % len(sent) + 1])
                await asyncio.sleep(0.1)
                if reader.at_eof():
                    break
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    async def body() -> None:
        async with administered(place, token) as (broker, http):
            assert broker.admin_address is not None
            port = broker.admin_address.port
            head = f"POST /v1/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
            async with asyncio.timeout(8):
                silent, slow, late = await asyncio.gather(
                    raw(place, broker, b""),
                    dribble(place, port, b"GET / HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaa"),
                    raw(place, broker, head.encode() + b"{"),
                )
            assert silent == b""
            assert slow == b""
            assert late.startswith(b"HTTP/1.1 408")
            assert (await http("GET", "/healthz")).status == 200

    in_loop(body)


def test_a_client_that_reads_nothing_loses_its_connection(
    operated: tuple[Place, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, token = operated
    monkeypatch.setattr(server, "_STALL_SECONDS", 1.0)
    monkeypatch.setattr(server, "_IDLE_SECONDS", 100.0)
    asked = b"GET /console.js HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def ask_for_ever(connection: ssl.SSLSocket) -> None:
        """Ask, and never read; an error when the other side has given up."""
        connection.settimeout(0.3)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            given_up = time.monotonic() + 15
            while time.monotonic() < given_up:
                with contextlib.suppress(TimeoutError):
                    connection.send(asked * 1000)
            raise AssertionError("it was kept")

    async def body() -> None:
        async with administered(place, token) as (broker, http):
            assert broker.admin_address is not None
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(("127.0.0.1", broker.admin_address.port))
            with trusting(place).wrap_socket(
                plain, server_hostname="localhost", do_handshake_on_connect=False
            ) as connection:
                await asyncio.to_thread(connection.do_handshake)
                await asyncio.to_thread(ask_for_ever, connection)
            assert (await http("GET", "/healthz")).status == 200

    in_loop(body)


def test_too_many_connections_are_dropped_and_those_before_served(
    operated: tuple[Place, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, token = operated
    monkeypatch.setattr(server, "_CONNECTIONS", 5)

    async def body() -> None:
        async with administered(place, token) as (broker, http):
            assert (await http("GET", "/healthz")).status == 200
            assert broker.admin_address is not None
            place_of = ("127.0.0.1", broker.admin_address.port)
            silent = [socket.create_connection(place_of, timeout=5) for _ in range(20)]
            # Four of them have room beside the first, and the others are closed before they say anything.
            closed = 0
            for connection in silent[4:]:
                try:
                    closed += await asyncio.to_thread(connection.recv, 1) == b""
                except ConnectionError:
                    closed += 1
            assert closed == 16
            assert (await http("GET", "/healthz")).status == 200
            for connection in silent:
                connection.close()

            async def room_again() -> bool:
                try:
                    await raw(place, broker, b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                except (ConnectionError, OSError):
                    return False
                return True

            await eventually(room_again)

    in_loop(body)


def test_the_ports_do_not_speak_each_others_protocols(operated: tuple[Place, str], identity: TlsIdentity) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (broker, _):
            assert broker.admin_address is not None
            context = client_context(SignedByAuthority(place.authority.pem), identity=identity, alpn=[ALPN])
            stream = await connect("localhost", broker.admin_address.port, context=context)
            assert stream.alpn != ALPN
            await stream.write(b"SECRET_PROVISION_RA_TLS_REQUEST_V1\0")
            received = b""
            with contextlib.suppress(TlsConnectionError):
                while True:
                    received += await stream.read_exactly(1)
            assert received.startswith(b"HTTP/1.")
            assert int(received.split()[1]) == 400
            stream.abort()

            # And HTTP on the enclaves' port gets no answer, with a token or without.
            reader, writer = await asyncio.open_connection(
                "localhost", broker.address.port, ssl=trusting(place), server_hostname="localhost"
            )
            writer.write(
                f"GET /v1/keys HTTP/1.1\r\nHost: {name_of(broker)}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            try:
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
            except ConnectionError:
                pass
            writer.transport.abort()

    in_loop(body)
    assert not any(record["outcome"] == "granted" for record in place.records)


def test_a_defect_in_a_handler_tells_nothing(operated: tuple[Place, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, token = operated
    monkeypatch.setattr("sealserve.broker.admin.fleet.Fleet.update", lambda _self: 1 / 0)

    async def body() -> None:
        async with administered(place, token) as (_, http):
            answer = await http("GET", "/v1/fleet")
            assert answer.status == 500
            assert b"ZeroDivision" not in answer.body
            assert (await http("GET", "/v1/status")).status == 200

    in_loop(body)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.binary(min_size=1, max_size=300))
def test_bodies_of_any_bytes_are_refused_as_the_callers_fault(sent: bytes) -> None:
    try:
        value = json_object(sent)
    except HttpError:
        return
    try:
        checked(KeyBody, value)
    except InputError:
        return
    assert set(value) == {"name"}


def test_wildcard_names_cover_one_label() -> None:
    assert _matches("a.example.org", "*.example.org")
    assert not _matches("a.b.example.org", "*.example.org")
    assert not _matches("example.org", "*.example.org")
    assert not _matches("aexample.org", "*.example.org")


def test_a_certificate_tells_the_names_of_its_server() -> None:
    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    plain = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    assert names_of(plain.sign(key, hashes.SHA256())) == set()
    alternative = x509.SubjectAlternativeName([x509.DNSName("A.example"), x509.RFC822Name("a@b.example")])
    assert names_of(plain.add_extension(alternative, critical=False).sign(key, hashes.SHA256())) == {"a.example"}
