"""The messages of protocol version 2, as ``docs/broker-protocol.md`` specifies them.

A frame is a length (4 bytes, big-endian) and that many bytes of CBOR. This module turns bytes into checked values and
back; who says what when is in :mod:`sealserve.broker.version2` and :mod:`sealserve.broker.client`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from sealserve.errors import UnavailableError
from sealserve.ratls import cbor
from sealserve.ratls.binding import NONCE_SIZE
from sealserve.ratls.stream import TlsStream

ALPN = "sealserve-key-broker/2"

MAX_HELLO = 1024
MAX_EVIDENCE = 64 * 1024
MAX_ANSWER = 256 * 1024
_MAX_KEYS = 64

RefusalReason = Literal["not-granted", "bad-request", "unavailable"]
"""All that a stranger learns. ``unavailable`` says nothing about the evidence: another broker, or later, may grant."""

NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class ProtocolError(UnavailableError):
    """The peer does not speak the protocol: a message is malformed, too large, or of another kind than expected."""


class _Message(BaseModel):
    # Unknown fields are ignored, so that a later minor revision can add some. Values never show up in errors.
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True, frozen=True)


class Hello(_Message):
    """Broker → enclave, first: what the evidence must be fresh for."""

    type: Literal["hello"] = "hello"
    nonce: Annotated[bytes, Field(min_length=NONCE_SIZE, max_length=NONCE_SIZE)] = Field(repr=False)


class Request(_Message):
    """What an enclave asks for. Its encoded bytes are bound into the evidence.

    :param keys: names of keys; empty means all keys of the grant.
    """

    deployment: Name
    keys: Annotated[list[Name], Field(max_length=_MAX_KEYS), FailFast()] = []


class Evidence(_Message):
    """Enclave → broker: an encoded :class:`Request`, and a quote over it, the nonce, the TLS key and the TLS
    session."""

    type: Literal["evidence"] = "evidence"
    request: Annotated[bytes, Field(max_length=16 * 1024)]
    quote: Annotated[bytes, Field(min_length=1, max_length=32 * 1024)]


class Key(_Message):
    """A key in one of its versions."""

    version: Annotated[int, Field(ge=1, lt=1 << 31)]
    value: Annotated[bytes, Field(min_length=16, max_length=64)] = Field(repr=False)


class Model(_Message):
    """The model to serve."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    version: Annotated[int, Field(ge=1, lt=1 << 63)]
    digest: Annotated[bytes, Field(min_length=32, max_length=32)]
    mount: Annotated[str, Field(min_length=1, max_length=1024)]
    key: Name


class Tls(_Message):
    """What the enclave serves TLS with.

    :param certificate: a chain in PEM, the enclave's own first. :param key: its private key, PKCS #8 in PEM.
    :param client_authority: certificates in PEM, one of which must have signed every client's.
    """

    certificate: Annotated[str, Field(min_length=1, max_length=32 * 1024)]
    key: Annotated[bytes, Field(min_length=1, max_length=8 * 1024)] = Field(repr=False)
    client_authority: Annotated[str, Field(min_length=1, max_length=32 * 1024)] | None = None


class Previous(_Message):
    """What a grant named before."""

    model: Model
    key: Key = Field(repr=False)


class Granted(_Message):
    """Broker → enclave, last: the grant.

    :param revision: grows when the grant is changed. :param refresh: seconds after which to ask again.
    :param previous: what may be opened if the enclave's storage does not hold ``model`` yet.
    :param tls: a certificate that the owner made for the enclaves; none if they make their own.
    """

    type: Literal["granted"] = "granted"
    decision: Annotated[str, Field(max_length=64)]
    keys: Annotated[dict[Name, Key], Field(max_length=_MAX_KEYS)] = Field(repr=False)
    model: Model
    arguments: dict[str, str] = {}
    revision: Annotated[int, Field(ge=1, lt=1 << 63)] | None = None
    refresh: Annotated[int, Field(ge=1, le=86_400)] | None = None
    previous: Previous | None = Field(default=None, repr=False)
    tls: Tls | None = Field(default=None, repr=False)


class Refused(_Message):
    """Broker → enclave, last: no grant."""

    type: Literal["refused"] = "refused"
    decision: Annotated[str, Field(max_length=64)]
    reason: RefusalReason


M = TypeVar("M", bound=_Message)


def encode(message: _Message) -> bytes:
    """A message as CBOR, in the deterministic encoding. What is not given is left out."""
    return cbor.encode(message.model_dump(exclude_none=True))


def decode(data: bytes, kind: type[M]) -> M:
    """Read a message of one kind.

    :raises ProtocolError: it is malformed or of another kind.
    """
    return _validated(_decoded_map(data), kind)


def decode_answer(data: bytes) -> Granted | Refused:
    """Read the broker's answer.

    :raises ProtocolError: it is neither.
    """
    value = _decoded_map(data)
    return _validated(value, Refused) if value.get("type") == "refused" else _validated(value, Granted)


def _decoded_map(data: bytes) -> dict[Any, Any]:
    try:
        value = cbor.decode(data)
    except cbor.CborError as error:
        raise ProtocolError(f"a message of the key broker's protocol is malformed: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("a message of the key broker's protocol is malformed: it is no map")
    return value


def _validated(value: dict[Any, Any], kind: type[M]) -> M:
    if "type" in kind.model_fields and "type" not in value:
        raise ProtocolError("a message of the key broker's protocol is malformed: it has no type")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        # Not chained: the library keeps the values, and one of them may be a key.
        where = ", ".join(sorted({".".join(str(part) for part in item["loc"][:1]) for item in error.errors()}))
        problem = f"a message of the key broker's protocol is malformed: {kind.__name__.lower()}: {where}"
    raise ProtocolError(problem)


async def read_frame(stream: TlsStream, limit: int) -> bytes:
    """The next frame's content.

    :raises ProtocolError: it is empty or longer than ``limit`` bytes. :raises TlsConnectionError: the stream ended.
    """
    size = int.from_bytes(await stream.read_exactly(4), "big")
    if not 0 < size <= limit:
        raise ProtocolError(f"a frame of the key broker's protocol has {size} bytes; at most {limit} are accepted")
    return await stream.read_exactly(size)


async def write_frame(stream: TlsStream, content: bytes, *, last: bool = False) -> None:
    """Send one frame.

    :param last: nothing will be sent after it. :raises TlsConnectionError: the connection broke.
    """
    send = stream.finish if last else stream.write
    await send(len(content).to_bytes(4, "big") + content)
