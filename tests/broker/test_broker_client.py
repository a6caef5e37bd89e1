"""The enclaves' side: several brokers, failures, refusals, and whom it trusts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broker_parties import WRAP_KEY, Authority, Place, in_loop, name_of, new_identity, running

from sealserve.addresses import Address
from sealserve.broker import client
from sealserve.broker.client import BrokersUnavailableError, Grant, GrantRefusedError, fetch_grant, request_grant
from sealserve.broker.messages import ALPN, MAX_EVIDENCE, Hello, Refused, encode, read_frame, write_frame
from sealserve.errors import ConfigurationError, InputError, UnavailableError
from sealserve.evidence.errors import AttestationError
from sealserve.ratls import TlsIdentity
from sealserve.ratls.contexts import ServerNotTrustedError, server_context
from sealserve.ratls.listener import Handler, serve
from sealserve.ratls.stream import TlsStream


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def asking(place: Place, identity: TlsIdentity, *brokers: str, timeout: float = 10, ca: bytes | None = None):  # type: ignore[no-untyped-def]
    return request_grant(
        brokers,
        ca_pem=ca or place.authority.pem,
        identity=identity,
        attester=place.attester(),
        deployment="digits",
        timeout=timeout,
    )


@contextlib.asynccontextmanager
async def odd_broker(place: Place, handler: Handler, *, alpn: str = ALPN) -> AsyncIterator[str]:
    issued = place.authority.issue()
    context = server_context([issued.certificate], issued.key, request_client_certificate=True, alpn=[alpn])
    server = await serve(Address("127.0.0.1", 0), context, handler)
    try:
        yield f"localhost:{server.address.port}"
    finally:
        await server.close(grace=0)


async def cannot_decide(stream: TlsStream) -> None:
    await write_frame(stream, encode(Hello(nonce=bytes(32))))
    await read_frame(stream, MAX_EVIDENCE)
    await write_frame(stream, encode(Refused(decision="77", reason="unavailable")))


async def speaks_nonsense(stream: TlsStream) -> None:
    await write_frame(stream, b"\xff\xff")


async def closes(stream: TlsStream) -> None:
    del stream


def test_the_next_broker_is_asked_when_one_is_down_or_odd(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with contextlib.AsyncExitStack() as stack:
            good = await stack.enter_async_context(running(place))
            odd = [
                await stack.enter_async_context(odd_broker(place, h)) for h in (cannot_decide, speaks_nonsense, closes)
            ]
            other = await stack.enter_async_context(odd_broker(place, closes, alpn="h2"))
            grant = await asking(place, identity, f"localhost:{free_port()}", *odd, other, name_of(good))
        assert bytes(grant.keys["wrap"].value.reveal()) == WRAP_KEY

    in_loop(body)


def test_a_broker_that_comes_up_later_is_found(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        port = free_port()
        place.document["listen"] = f"127.0.0.1:{port}"
        waiting = asyncio.create_task(asking(place, identity, f"localhost:{port}", timeout=20))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        async with running(place):
            grant: Grant = await waiting
        assert grant.model.name == "digits"

    in_loop(body)


def test_a_refusal_is_final_and_no_other_broker_is_asked(place: Place) -> None:
    asked: list[str] = []

    async def other(stream: TlsStream) -> None:
        asked.append(stream.peer_address)

    async def body() -> None:
        from broker_parties import OTHER_ENCLAVE

        async with running(place) as broker, odd_broker(place, other) as second:
            with pytest.raises(GrantRefusedError) as caught:
                await request_grant(
                    [name_of(broker), second],
                    ca_pem=place.authority.pem,
                    identity=new_identity(place, OTHER_ENCLAVE),
                    attester=place.attester(OTHER_ENCLAVE),
                    deployment="digits",
                )
        assert caught.value.decision in str(caught.value)
        assert caught.value.exit_code == 4
        assert len(place.records) == 1
        assert asked == []

    in_loop(body)


def test_nobody_there_says_what_was_tried(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        dead = f"localhost:{free_port()}"
        async with odd_broker(place, cannot_decide) as odd:
            with pytest.raises(BrokersUnavailableError) as caught:
                await asking(place, identity, dead, odd, timeout=1.5)
        attempts = dict(caught.value.attempts)
        assert "cannot connect" in attempts[dead]
        assert "cannot decide" in attempts[odd]
        assert dead in str(caught.value)
        assert isinstance(caught.value, UnavailableError)

    in_loop(body)


def test_a_silent_broker_does_not_hold_longer_than_the_timeout(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(BrokersUnavailableError):
            await asking(place, identity, f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)

    in_loop(body)


def test_a_broker_of_another_authority_or_name_gets_no_evidence(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            with pytest.raises(ServerNotTrustedError):
                await asking(place, identity, name_of(broker), ca=Authority().pem)
            with pytest.raises(ServerNotTrustedError):
                await asking(place, identity, f"127.0.0.1:{broker.address.port}")  # the certificate says localhost
        assert place.records == []

    in_loop(body)


def test_a_broker_that_is_not_trusted_does_not_keep_one_that_is_from_granting(
    place: Place, identity: TlsIdentity
) -> None:
    async def body() -> None:
        async with running(place) as broker:
            port = broker.address.port
            assert (await asking(place, identity, f"127.0.0.1:{port}", f"localhost:{port}")).model.name == "digits"

    in_loop(body)


def test_a_machine_without_evidence_says_so_at_once(place: Place, identity: TlsIdentity) -> None:
    class Broken:
        tee = "sgx"

        def quote(self, report_data: bytes) -> bytes:
            raise AttestationError("no quote today")

    async def body() -> None:
        async with running(place) as broker:
            with pytest.raises(AttestationError):
                await request_grant(
                    [name_of(broker)],
                    ca_pem=place.authority.pem,
                    identity=identity,
                    attester=Broken(),  # type: ignore[arg-type]
                    deployment="digits",
                )

    in_loop(body)


@pytest.mark.parametrize("brokers", [[], ["localhost"], ["localhost:0"], ["localhost:70000"], ["http://localhost:1"]])
def test_addresses_that_are_none_are_refused(place: Place, identity: TlsIdentity, brokers: list[str]) -> None:
    with pytest.raises(InputError):
        asyncio.run(asking(place, identity, *brokers))


def test_names_that_no_broker_would_take_are_refused(place: Place, identity: TlsIdentity) -> None:
    with pytest.raises(ConfigurationError):
        fetch_grant(
            ["localhost:1"],
            ca_pem=place.authority.pem,
            identity=identity,
            attester=place.attester(),
            deployment="no name",
        )


def test_fetch_grant_needs_no_event_loop(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            grant = await asyncio.to_thread(
                fetch_grant,
                [name_of(broker)],
                ca_pem=place.authority.pem,
                identity=identity,
                attester=place.attester(),
                deployment="digits",
            )
            assert grant.keys["wrap"].version == 3

    in_loop(body)


def test_the_client_imports_nothing_of_the_server() -> None:
    program = (
        "import sys, sealserve.broker.client;"
        "print([name for name in sys.modules if name.startswith('sealserve.broker.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    for module in ("server", "audit", "decisions", "grants", "settings", "store", "version1"):
        assert f"'sealserve.broker.{module}'" not in done.stdout


def test_a_failure_is_logged_when_it_begins(
    place: Place, identity: TlsIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    failures: dict[str, str] = {}

    async def body() -> None:
        port = free_port()
        place.document["listen"] = f"127.0.0.1:{port}"

        async def ask(timeout: float) -> Grant:  # noqa: ASYNC109 - as the client has it
            return await request_grant(
                [f"localhost:{port}"],
                ca_pem=place.authority.pem,
                identity=identity,
                attester=place.attester(),
                deployment="digits",
                timeout=timeout,
                failures=failures,
            )

        for _ in range(2):
            with pytest.raises(BrokersUnavailableError, match="cannot connect"):
                await ask(0.7)
        assert failures
        async with running(place):
            assert await ask(10)
        assert failures == {}, "it works again"
        with pytest.raises(BrokersUnavailableError):
            await ask(0.7)

    in_loop(body)
    assert [record.message for record in caplog.records].count("broker-failed") == 2


def test_a_broker_that_is_known_to_be_away_is_asked_once_in_two_to_five_seconds(
    place: Place, identity: TlsIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 30:
            raise TimeoutError

    monkeypatch.setattr(client.asyncio, "sleep", sleep)
    with pytest.raises(BrokersUnavailableError):
        asyncio.run(
            request_grant(
                [f"localhost:{free_port()}"],
                ca_pem=place.authority.pem,
                identity=identity,
                attester=place.attester(),
                deployment="digits",
                failures={"localhost:1": "cannot connect"},
            )
        )
    assert all(2 <= pause <= 5 for pause in pauses)
    assert len(set(pauses)) == 30


def test_a_grant_that_nobody_gets_is_wiped(
    place: Place, identity: TlsIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is cancelled, or time runs out, between the answer and the end of the connection."""
    grants: list[Grant] = []
    real = client._grant

    def remembered(*arguments: Any) -> Grant:
        grants.append(real(*arguments))
        return grants[-1]

    async def cut(stream: TlsStream) -> None:
        stream.abort()
        raise asyncio.CancelledError

    monkeypatch.setattr(client, "_grant", remembered)
    monkeypatch.setattr(client, "_close", cut)

    async def body() -> None:
        async with running(place) as broker:
            with pytest.raises(asyncio.CancelledError):
                await asking(place, identity, name_of(broker))

    in_loop(body)
    assert [len(key.value) for key in grants[0].keys.values()] == [0, 0]
