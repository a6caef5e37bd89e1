"""A running broker against bytes that are almost right, at every layer; afterwards it serves as before."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from broker_parties import WRAP_KEY, Place, answer_of, ask, running, session
from cryptography import x509
from OpenSSL import SSL
from test_broker_version1 import REQUEST, answer, extension, gramine_client, provision, with_extensions
from test_broker_version2 import evidence_for

from mutation import mutate, randomness
from sealserve.broker.messages import ALPN, Evidence, Granted, ProtocolError, Refused, Request, decode, encode
from sealserve.broker.server import Broker
from sealserve.ratls import TlsIdentity
from sealserve.ratls.certificate import DICE_EVIDENCE, LEGACY_QUOTE
from sealserve.ratls.stream import TlsConnectionError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

AT_ONCE = 20
MEGABYTE = 1_000_000
DEFECTS = {"connection-handler-failed", "decision-failed", "store-refused"}


def resident() -> int:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def fuzz(
    place: Place,
    identity: TlsIdentity,
    caplog: pytest.LogCaptureFixture,
    attempt: Callable[[Broker, random.Random], Awaitable[None]],
    *,
    name: str,
    count: int,
) -> None:
    """Attempts, several at once; then the broker must serve, must not have grown, and must have met no defect."""
    caplog.set_level(logging.WARNING)
    place.put(version_1={"key": "wrap"})
    place.document["limits"] = {"step_seconds": 2, "handshake_seconds": 2}
    source = randomness(name)

    async def one(broker: Broker, gate: asyncio.Semaphore, seed: int) -> None:
        async with gate, asyncio.timeout(20):
            await attempt(broker, random.Random(seed))

    async def body() -> None:
        async with running(place) as broker:
            gate = asyncio.Semaphore(AT_ONCE)

            async def attempts(number: int) -> None:
                await asyncio.gather(*(one(broker, gate, source.randrange(1 << 62)) for _ in range(number)))
                if not defects(caplog):
                    caplog.clear()  # it would be what grows

            await attempts(count // 4)
            before = resident()
            await attempts(count - count // 4)
            assert resident() - before < 60 * MEGABYTE
            assert bytes((await ask(place, broker, identity)).keys["wrap"].value.reveal()) == WRAP_KEY
            assert await provision(broker, identity) == answer(WRAP_KEY)

    asyncio.run(body())
    assert defects(caplog) == []
    with place.store() as store:
        store.check()


def defects(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage() in DEFECTS]


def client_hello(identity: TlsIdentity, *, alpn: bool) -> bytes:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(identity.certificate)
    if alpn:
        context.set_alpn_protos([ALPN.encode()])
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(1 << 16)


def test_raw_bytes(place: Place, identity: TlsIdentity, caplog: pytest.LogCaptureFixture) -> None:
    hellos = [client_hello(identity, alpn=alpn) for alpn in (False, True)]

    async def attempt(broker: Broker, source: random.Random) -> None:
        reader, writer = await asyncio.open_connection(broker.address.host, broker.address.port)
        try:
            for _ in range(source.randint(1, 3)):
                good = source.choice(hellos)
                writer.write(source.choice((source.randbytes(300), mutate(good, source, hellos), good)))
                await writer.drain()
            if source.random() < 0.7:
                writer.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(source.choice((0.01, 3))):
                    await reader.read()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    fuzz(place, identity, caplog, attempt, name="raw", count=3000)


def test_messages_of_version_2(place: Place, identity: TlsIdentity, caplog: pytest.LogCaptureFixture) -> None:
    """Frames, and the request and the quote in them, behind a handshake that is in order."""

    async def attempt(broker: Broker, source: random.Random) -> None:
        try:
            async with session(place, broker, identity) as (stream, nonce):
                good = evidence_for(place, stream, nonce, identity)
                parts = decode(good, Evidence)
                changed = source.choice(
                    (
                        lambda: mutate(good, source),
                        lambda: encode(Evidence(request=parts.request, quote=mutate(parts.quote, source) or b"x")),
                        lambda: encode(Evidence(request=mutate(parts.request, source), quote=parts.quote)),
                    )
                )()
                frame = len(changed).to_bytes(4, "big") + changed
                if source.random() < 0.2:
                    frame = mutate(frame, source)
                await stream.write(frame)
                told = await answer_of(stream)
        except TlsConnectionError:
            return  # the frame was not whole, or its length was a lie
        if isinstance(told, Granted):
            # Unknown fields are ignored, and so is what means the same: what was bound must be what was sent.
            read = decode(changed, Evidence)
            assert read.request == parts.request
            assert read.quote.rstrip(b"\0") == parts.quote.rstrip(b"\0")
        else:
            assert isinstance(told, Refused)
            assert told.reason in {"bad-request", "not-granted"}

    fuzz(place, identity, caplog, attempt, name="version 2", count=1500)


def test_certificates_and_requests_of_version_1(
    place: Place, identity: TlsIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    """Extensions that are almost right, in certificates whose key the peer does have."""
    good = {oid: extension(identity, oid)[1] for oid in (DICE_EVIDENCE, LEGACY_QUOTE)}

    async def attempt(broker: Broker, source: random.Random) -> None:
        which = source.choice([(DICE_EVIDENCE,), (LEGACY_QUOTE,), (DICE_EVIDENCE, LEGACY_QUOTE)])
        changed: list[tuple[x509.ObjectIdentifier, bytes]] = [
            (oid, mutate(good[oid], source, list(good.values())) if source.random() < 0.8 else good[oid])
            for oid in which
        ]
        request = REQUEST if source.random() < 0.8 else mutate(REQUEST, source)
        spoiled = with_extensions(identity, *changed)
        try:
            told = await asyncio.to_thread(gramine_client, broker.address.port, spoiled, records=[request or b"x"])
        except (SSL.Error, OSError):
            return
        if told:
            assert told == answer(WRAP_KEY)
            assert request.startswith(REQUEST)
            found = dict(changed)
            counted = DICE_EVIDENCE if DICE_EVIDENCE in found else LEGACY_QUOTE
            assert found[counted].rstrip(b"\0") == good[counted].rstrip(b"\0")

    fuzz(place, identity, caplog, attempt, name="version 1", count=1200)


def test_arbitrary_requests_are_messages_or_refused() -> None:
    source = randomness("request")
    good = [encode(Request(deployment="digits", keys=["wrap"])), encode(Refused(decision="1", reason="unavailable"))]
    for _ in range(40_000):
        data = mutate(source.choice(good), source, good)
        for kind in (Request, Refused, Granted, Evidence):
            with contextlib.suppress(ProtocolError):
                decode(data, kind)
