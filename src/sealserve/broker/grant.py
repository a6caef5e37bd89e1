"""What a key broker grants an enclave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sealserve.secret import Secret


@dataclass(frozen=True)
class ReleasedKey:
    """A named key in one of its versions."""

    name: str
    version: int
    value: Secret


@dataclass(frozen=True)
class ModelGrant:
    """Which model to serve, so that the host cannot put another or an older one in its place.

    :param digest: of the sealed model, 32 bytes. :param mount: the path that is embedded in its files.
    :param key: the name of the key that opens it.
    """

    name: str
    version: int
    digest: bytes
    mount: str
    key: str


@dataclass(frozen=True)
class Grant:
    """A whole grant, as an enclave receives it.

    :param arguments: what to run with; nothing of it comes from the host.
    :param decision: the broker's number for this decision, for its audit log and for people.
    """

    keys: Mapping[str, ReleasedKey] = field(repr=False)
    model: ModelGrant
    arguments: Mapping[str, str]
    decision: str = ""
