"""``broker.yaml``: what a key broker is told. Relative paths are relative to the file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from sealserve.addresses import Address, parse_address
from sealserve.broker.messages import Name
from sealserve.configuration import RelativePath, Settings, load_yaml
from sealserve.errors import InputError


def _mount(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or str(path) != text:
        raise ValueError("write an absolute path without '..', '//' or a slash at the end, for example /models/digits")
    return text


class KeyFile(Settings):
    """A wrap key: a file of 16 raw bytes, mode 0600, and the number of its version."""

    file: RelativePath = Field(description="a file of 16 raw bytes, mode 0600")
    version: Annotated[int, Field(ge=1, lt=1 << 31)] = 1


class ModelSettings(Settings):
    """The model that enclaves of the grant are to serve."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    version: Annotated[int, Field(ge=1, lt=1 << 63)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    mount: Annotated[str, Field(max_length=1024), AfterValidator(_mount)]
    key: Name


class Version1Settings(Settings):
    """What unmodified Gramine enclaves of the grant get over protocol version 1: one key, and nothing else.

    :param key: its name. :param encoding: ``raw``: 16 bytes, for ``SECRET_PROVISION_SET_KEY`` of current Gramine;
        ``hex``: 32 hex digits and NUL, which Graphene and early Gramine expect.
    """

    key: Name
    encoding: Literal["raw", "hex"] = "raw"


class GrantSettings(Settings):
    """Which enclaves get what."""

    deployment: Name
    policy: RelativePath = Field(description="the appraisal policy that says which enclaves")
    keys: Annotated[dict[Name, KeyFile], Field(min_length=1, max_length=64)]
    model: ModelSettings
    arguments: dict[str, str] = Field(default_factory=dict, description="what the enclave is to run with")
    version_1: Version1Settings | None = None

    @model_validator(mode="after")
    def _named_keys_exist(self) -> Self:
        named = [self.model.key] + ([self.version_1.key] if self.version_1 else [])
        for name in named:
            if name not in self.keys:
                raise ValueError(f"there is no key {name!r} among the grant's keys")
        return self

    @field_validator("arguments")
    @classmethod
    def _arguments_are_small(cls, arguments: dict[str, str]) -> dict[str, str]:
        if sum(len(name) + len(value) for name, value in arguments.items()) > 64 * 1024:
            raise ValueError("together they must not exceed 64 KiB")
        return arguments


class Limits(Settings):
    """How long and how many, in seconds and connections."""

    handshake_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    step_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    connections: Annotated[int, Field(ge=1, le=100_000)] = 2000


class BrokerSettings(Settings):
    """The whole file.

    :param listen: ``host:port``. :param certificate: PEM, the broker's own certificate first.
    :param private_key: PEM, mode 0600. :param audit: the audit log, made if it does not exist.
    """

    listen: str = "127.0.0.1:4433"
    certificate: RelativePath = Field(description="the broker's TLS certificate, PEM, its own first")
    private_key: RelativePath = Field(description="the TLS certificate's private key, PEM, mode 0600")
    audit: RelativePath = Field(description="the audit log; made if it does not exist")
    limits: Limits = Limits()
    grants: Annotated[list[GrantSettings], Field(min_length=1)]

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, text: str) -> str:
        try:
            parse_address(text, allow_any_port=True)
        except InputError as error:
            raise ValueError(f"{error.message}; {error.hint or ''}") from error
        return text

    @model_validator(mode="after")
    def _deployments_differ(self) -> Self:
        names = [grant.deployment for grant in self.grants]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two grants are for the same deployment: {', '.join(sorted(twice))}")
        return self

    @property
    def address(self) -> Address:
        """Where to listen; port 0 lets the system choose."""
        return parse_address(self.listen, allow_any_port=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``broker.yaml``.

        :raises ConfigurationError: it is not valid. :raises InputError: it cannot be read.
        """
        return load_yaml(path, cls)
