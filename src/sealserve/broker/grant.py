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
class PreviousModel:
    """What a grant named before: the enclave may serve it if its storage does not hold the new one yet."""

    model: ModelGrant
    key: ReleasedKey


@dataclass(frozen=True)
class TlsMaterial:
    """A certificate that the owner made for the enclaves.

    :param certificate: a chain in PEM, the enclave's own first. :param private_key: PKCS #8 in PEM.
    :param client_authority: certificates in PEM, one of which must have signed every client's; none if clients need
        none.
    """

    certificate: str
    private_key: Secret
    client_authority: str | None = None


@dataclass(frozen=True)
class Grant:
    """A whole grant, as an enclave receives it.

    :param arguments: what to run with; nothing of it comes from the host.
    :param decision: the broker's number for this decision, for its audit log and for people.
    :param revision: grows whenever the owner changes the grant; 0 if the broker does not say.
    :param refresh_seconds: when to ask again; none if the broker does not say.
    :param previous: what it named before, while that may still be opened.
    :param tls: what to serve TLS with; none if the enclave makes its own certificate.
    """

    keys: Mapping[str, ReleasedKey] = field(repr=False)
    model: ModelGrant
    arguments: Mapping[str, str]
    decision: str = ""
    revision: int = 0
    refresh_seconds: int | None = None
    previous: PreviousModel | None = field(default=None, repr=False)
    tls: TlsMaterial | None = field(default=None, repr=False)

    def wipe(self) -> None:
        """Overwrite all keys of it."""
        for key in self.keys.values():
            key.value.wipe()
        if self.previous is not None:
            self.previous.key.value.wipe()
        if self.tls is not None:
            self.tls.private_key.wipe()
