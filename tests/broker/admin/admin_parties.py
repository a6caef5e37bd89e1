"""A broker with administration, and those who ask it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from broker_parties import Place, running
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.broker.server import Broker
from sealserve.broker.store.tokens import Role
from sealserve.broker.tokens import TokenAdministration
from sealserve.files import write_atomically


def add_admin(place: Place, **changes: Any) -> None:
    """Have the place's broker be administered, by tokens if nothing else is said."""
    place.document["admin"] = {"listen": "127.0.0.1:0", "tokens": True, **changes}


def make_token(place: Place, role: Role = "operator", *, name: str = "alice", seconds: float = 3600) -> str:
    with place.store() as store:
        _, token = TokenAdministration(store, actor="test").create(name, role, lifetime=timedelta(seconds=seconds))
    return token.reveal().decode()


def add_client(place: Place, name: str) -> tuple[Path, Path]:
    """Certificate and key of an administrator, signed by an authority ``admins.pem``."""
    issued = place.authority.issue(name, subject=f"CN={name}")
    certificate, key = place.directory / f"{name}.pem", place.directory / f"{name}.key"
    certificate.write_bytes(issued.certificate.public_bytes(Encoding.PEM))
    write_atomically(key, issued.key_pem, mode=0o600)
    (place.directory / "admins.pem").write_bytes(place.authority.pem)
    return certificate, key


def trusting(place: Place, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=place.authority.pem.decode())
    if client is not None:
        context.load_cert_chain(*client)
    return context


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes, value: Any) -> None:
        self.status, self.headers, self.body, self.value = status, headers, body, value

    @property
    def reason(self) -> str:
        assert self.headers["Content-Type"].startswith("application/problem+json"), self.body
        assert self.value["status"] == self.status
        return str(self.value["reason"])


class Asker:
    """Asks one broker's administration, over one set of credentials."""

    def __init__(self, session: aiohttp.ClientSession, base: str, token: str | None) -> None:
        self.session, self.base, self.token = session, base, token

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            sent = {"Authorization": f"Bearer {self.token}", **sent}
        options: dict[str, Any] = (
            {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        )
        async with self.session.request(method, self.base + path, headers=sent, **options) as answer:
            content = await answer.read()
            json = (
                await answer.json(content_type=None)
                if "json" in answer.content_type and "jsonl" not in answer.content_type
                else None
            )
            return Answer(answer.status, answer.headers, content, json)

    async def get(self, path: str, **headers: str) -> Any:
        answer = await self("GET", path, **headers)
        assert answer.status == 200, answer.body
        return answer.value

    def as_(self, token: str | None) -> Asker:
        return Asker(self.session, self.base, token)


@contextlib.asynccontextmanager
async def administered(
    place: Place, token: str | None = None, *, client: tuple[Path, Path] | None = None
) -> AsyncIterator[tuple[Broker, Asker]]:
    async with running(place) as broker, asking(place, broker, token, client=client) as ask:
        yield broker, ask


@contextlib.asynccontextmanager
async def asking(
    place: Place, broker: Broker, token: str | None = None, *, client: tuple[Path, Path] | None = None
) -> AsyncIterator[Asker]:
    assert broker.admin_address is not None
    connector = aiohttp.TCPConnector(ssl=trusting(place, client))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Asker(session, f"https://localhost:{broker.admin_address.port}", token)


async def raw(place: Place, broker: Broker, sent: bytes, *, seconds: float = 5) -> bytes:
    """What the administration answers to bytes."""
    assert broker.admin_address is not None
    reader, writer = await asyncio.open_connection(
        "localhost", broker.admin_address.port, ssl=trusting(place), server_hostname="localhost"
    )
    try:
        writer.write(sent)
        async with asyncio.timeout(seconds):
            return await reader.read(1 << 20)
    finally:
        writer.transport.abort()


async def eventually(check: Any, seconds: float = 10) -> None:
    """Wait until ``check()`` (a coroutine) is true."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - what is waited for is on the other side
            await asyncio.sleep(0.05)
