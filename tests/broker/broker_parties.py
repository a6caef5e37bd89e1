"""The parties of these tests: a certificate authority, enclaves on a simulated platform, a broker over real files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from sqlalchemy.exc import OperationalError

from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.client import Grant, request_grant
from sealserve.broker.messages import (
    ALPN,
    MAX_ANSWER,
    MAX_HELLO,
    Granted,
    Hello,
    Refused,
    decode,
    decode_answer,
    read_frame,
)
from sealserve.broker.server import Broker
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store import GrantDocument, Store, StoredPolicy, audit_table
from sealserve.evidence import SimulatedAttester, SimulatedEnclave, create_simulated_platform
from sealserve.files import write_atomically
from sealserve.ratls import TlsIdentity, create_identity
from sealserve.ratls.certificate import LEGACY_QUOTE
from sealserve.ratls.contexts import SignedByAuthority, client_context
from sealserve.ratls.stream import TlsStream, connect
from sealserve.secret import Secret

ENCLAVE = SimulatedEnclave(mrenclave=b"\x11" * 32, mrsigner=b"\x22" * 32)
OTHER_ENCLAVE = SimulatedEnclave(mrenclave=b"\x99" * 32, mrsigner=b"\x22" * 32)
WRAP_KEY = bytes(range(0x40, 0x50))
SECOND_KEY = bytes(range(0x60, 0x70))
DIGEST = "ab" * 32
MODEL = {"name": "digits", "version": 7, "digest": DIGEST, "mount": "/models/digits", "key": "wrap"}
GRANT = {
    "deployment": "digits",
    "policy": "policy",
    "keys": {"wrap": 3, "second": 1},
    "model": MODEL,
    "arguments": {"threads": "2"},
}


@dataclass(frozen=True)
class Issued:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Authority:
    """An ordinary certificate authority, as an operator of a key broker has one."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string("CN=broker authority")
        self.certificate = self._sign(self._name, self._key.public_key(), ca=True)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str = "localhost", *, subject: str = "CN=broker") -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.Name.from_rfc4514_string(subject)
        return Issued(self._sign(named, key.public_key(), ca=False, name=name), key)

    def _sign(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool, name: str | None = None
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(self._name, subject, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if name is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@dataclass(frozen=True)
class Place:
    """A directory with everything that a broker needs."""

    directory: Path
    authority: Authority
    document: dict[str, Any]

    @property
    def platform(self) -> Path:
        return self.directory / "platform"

    def settings(self) -> BrokerSettings:
        return BrokerSettings.load(self.write())

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        with self.settings().open_store() as store:
            yield store

    @contextlib.contextmanager
    def administration(self) -> Iterator[BrokerAdministration]:
        with self.store() as store:
            yield BrokerAdministration(store, actor="test")

    @property
    def chain(self) -> list[dict[str, Any]]:
        """All records of the audit chain."""
        with self.store() as store, store.audit_lines() as lines:
            return [json.loads(line) for line in lines]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The decisions."""
        return [record for record in self.chain if record["event"] == "decision"]

    def attester(self, enclave: SimulatedEnclave = ENCLAVE) -> SimulatedAttester:
        return SimulatedAttester(self.platform, enclave)

    def write(self) -> Path:
        path = self.directory / "broker.yaml"
        path.write_text(json.dumps(self.document, indent=1))  # JSON is YAML
        return path

    def put(self, **changes: Any) -> None:
        """Write the grant that this place has from the start, with changes, into the store."""
        with self.administration() as administration:
            administration.put_grant(GrantDocument.model_validate(GRANT | changes))

    def put_policy(self, name: str = "policy") -> None:
        """Take the file ``name``.yaml over into the store."""
        with self.administration() as administration:
            administration.put_policy(StoredPolicy.from_file(name, self.directory / f"{name}.yaml"))

    def add_policy(self, name: str, *enclaves: SimulatedEnclave) -> None:
        policy = {
            "tee": "simulated",
            "trust_root": "platform/root.pem",
            "collateral": "platform/collateral.json",
            "enclaves": [{"mrenclave": enclave.mrenclave.hex()} for enclave in enclaves],
            "insecure_accept_simulated_platform": True,
        }
        (self.directory / name).write_text(json.dumps(policy))


def make_place(directory: Path, *, store: str = "broker.db") -> Place:
    create_simulated_platform(directory / "platform")
    authority = Authority()
    issued = authority.issue()
    write_atomically(directory / "broker.pem", issued.certificate.public_bytes(Encoding.PEM))
    write_atomically(directory / "broker.key", issued.key_pem, mode=0o600)
    document = {
        "listen": "127.0.0.1:0",
        "certificate": "broker.pem",
        "private_key": "broker.key",
        "store": store,
        "master_key": "master.key",
    }
    place = Place(directory, authority, document)
    place.add_policy("policy.yaml", ENCLAVE)
    place.settings().create_store(actor="test").close()
    place.put_policy()
    with place.administration() as administration:
        administration.import_key("wrap", Secret(WRAP_KEY), version=3)
        administration.import_key("second", Secret(SECOND_KEY))
    place.put()
    return place


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Records are written, and then there is no space to commit them."""
    real = audit_table.append

    def append(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        raise OperationalError("INSERT", None, sqlite3.OperationalError("database or disk is full"))

    with mock.patch.object(audit_table, "append", append):
        yield


@contextlib.asynccontextmanager
async def running(place: Place) -> AsyncIterator[Broker]:
    broker = Broker(place.settings())
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


def in_loop(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(40):
            await body()

    asyncio.run(limited())


def name_of(broker: Broker) -> str:
    return f"localhost:{broker.address.port}"


async def ask(
    place: Place,
    broker: Broker,
    identity: TlsIdentity,
    *,
    attester: Any = None,
    deployment: str = "digits",
    keys: tuple[str, ...] = (),
    timeout: float = 10,  # noqa: ASYNC109 - as the client has it
) -> Grant:
    return await request_grant(
        [name_of(broker)],
        ca_pem=place.authority.pem,
        identity=identity,
        attester=attester or place.attester(),
        deployment=deployment,
        keys=keys,
        timeout=timeout,
    )


@contextlib.asynccontextmanager
async def session(
    place: Place, broker: Broker, identity: TlsIdentity | None, **options: Any
) -> AsyncIterator[tuple[TlsStream, bytes]]:
    """A connection that speaks version 2 and has the broker's nonce."""
    context = client_context(SignedByAuthority(place.authority.pem), identity=identity, alpn=[ALPN], **options)
    stream = await connect("localhost", broker.address.port, context=context)
    try:
        yield stream, decode(await read_frame(stream, MAX_HELLO), Hello).nonce
    finally:
        stream.abort()


async def answer_of(stream: TlsStream) -> Granted | Refused:
    return decode_answer(await read_frame(stream, MAX_ANSWER))


def new_identity(place: Place, enclave: SimulatedEnclave = ENCLAVE) -> TlsIdentity:
    return create_identity(place.attester(enclave))


def rsa_identity(place: Place, *, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> Any:
    """An identity of Graphene's time: RSA-3072, and the older extension alone."""
    return foreign_identity(place, rsa.generate_private_key(public_exponent=65537, key_size=3072), form=form)


def foreign_identity(place: Place, key: Any, *, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> Any:
    """An identity with a key that is not of the kind that ours have, and the older extension alone."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_key().public_bytes(Encoding.DER, form))
    quote = place.attester().quote(digest.finalize() + bytes(32))
    name = x509.Name.from_rfc4514_string("CN=RATLS,O=GrapheneDevelopers,C=US")
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2001, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2030, 12, 31, tzinfo=UTC))
        .add_extension(x509.UnrecognizedExtension(LEGACY_QUOTE, quote), critical=False)
        .sign(key, hashes.SHA256())
    )
    return replace(new_identity(place), private_key=key, certificate=certificate)  # type: ignore[arg-type]
