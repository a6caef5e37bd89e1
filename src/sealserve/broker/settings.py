"""``broker.yaml``: what a key broker is told. Relative paths are relative to the file.

What it grants to whom is not in it: that is in the store, see :mod:`sealserve.broker.administration`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from sealserve.addresses import Address, parse_address
from sealserve.broker.admin.settings import AdminSettings
from sealserve.broker.store import MasterKeyPlace, Store
from sealserve.broker.store.database import is_url
from sealserve.configuration import RelativePath, Settings, load_yaml
from sealserve.errors import InputError
from sealserve.ratls.crowd import ConnectionLimits


def _location(text: str, info: ValidationInfo) -> str:
    if is_url(text):
        return text
    if "://" in text:
        raise ValueError("must be the path of a file, or postgresql://host/database")
    directory = (info.context or {}).get("directory")
    return str(directory / text) if directory is not None else text


class Limits(Settings):
    """How long and how many, in seconds and connections.

    :param connections_per_peer: of one IPv4 address, or one IPv6 network of 64 bits. A whole fleet may stand behind
        one address.
    """

    handshake_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    step_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    connections: Annotated[int, Field(ge=1, le=100_000)] = 3000
    connections_per_peer: Annotated[int, Field(ge=1, le=100_000)] = 2000

    def for_listener(self, workers: int = 1) -> ConnectionLimits:
        """A worker's part of them, in the form that the listener takes them in."""
        return ConnectionLimits(
            max(1, self.connections // workers), max(1, self.connections_per_peer // workers), self.handshake_seconds
        )


class BrokerSettings(Settings):
    """The whole file.

    :param listen: ``host:port``. :param certificate: PEM, the broker's own certificate first.
    :param private_key: PEM, mode 0600.
    :param store: the path of a SQLite file, or ``postgresql://…``.
    :param master_key: the file with the store's master key; without it see :meth:`MasterKeyPlace.find`.
    :param workers: how many processes serve; each keeps one processor busy at most.
    :param admin: administration over HTTPS, on another port; none if not given.
    """

    listen: str = "127.0.0.1:4433"
    certificate: RelativePath = Field(description="the broker's TLS certificate, PEM, its own first")
    private_key: RelativePath = Field(description="the TLS certificate's private key, PEM, mode 0600")
    store: Annotated[str, Field(min_length=1), AfterValidator(_location)] = Field(
        description="keys, policies, grants and the audit log: a SQLite file, or postgresql://host/database"
    )
    master_key: RelativePath | None = Field(None, description="the file with the store's master key, mode 0600")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="processes that serve: one for each processor")
    limits: Limits = Limits()
    admin: AdminSettings | None = Field(None, description="administration over HTTPS; without it there is none")

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, text: str) -> str:
        try:
            parse_address(text, allow_any_port=True)
        except InputError as error:
            raise ValueError(f"{error.message}; {error.hint or ''}") from error
        return text

    @model_validator(mode="after")
    def _administration_has_its_own_port(self) -> Self:
        if self.admin is not None and self.admin.address.port == self.address.port != 0:
            raise ValueError(f"admin.listen has the enclaves' port ({self.address.port}): give it another")
        return self

    @property
    def address(self) -> Address:
        """Where to listen; port 0 lets the system choose."""
        return parse_address(self.listen, allow_any_port=True)

    def open_store(self) -> Store:
        """The store.

        :raises StoreMissingError: there is none. :raises SealserveError: it cannot be opened, or not by this key.
        """
        return Store(self.store, MasterKeyPlace.find(self.master_key))

    def create_store(self, *, actor: str) -> Store:
        """The store, made with a new master key if there is none, and brought up to date."""
        return Store.create(self.store, MasterKeyPlace.find(self.master_key), actor=actor)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``broker.yaml``.

        :raises ConfigurationError: it is not valid. :raises InputError: it cannot be read.
        """
        return load_yaml(path, cls)
