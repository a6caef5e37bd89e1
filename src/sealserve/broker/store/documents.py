"""What a store holds, as values: versions of keys, policies, grants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, Field, field_validator, model_validator

from sealserve.broker.messages import NAME_PATTERN, Name
from sealserve.configuration import Settings, load_yaml, parse_yaml
from sealserve.errors import ConfigurationError
from sealserve.evidence import AppraisalPolicy, PolicyDocument, TrustRoot
from sealserve.files import read_file

KEY_SIZE = 16
"""Bytes of a wrap key."""

KeyState = Literal["active", "retiring", "retired", "destroyed"]
KeyNumber = Annotated[int, Field(ge=1, lt=1 << 31)]


def check_name(name: str) -> str:
    """Give ``name`` back if keys, policies and deployments can have it.

    :raises ConfigurationError: they cannot.
    """
    if re.fullmatch(NAME_PATTERN, name, re.ASCII) is None or name.endswith("\n"):
        raise ConfigurationError(
            f"{name!r} cannot be a name", hint="A name has 1 to 64 letters, digits, dots, dashes and underscores."
        )
    return name


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class KeyVersion:
    """One version of a named key.

    :param retires: from when it is not released any more. :param destroyed: when its value was deleted.
    :param sealed: the value, encrypted under the master key; none if it is destroyed.
    """

    name: str
    version: int
    created: datetime
    retires: datetime | None = None
    destroyed: datetime | None = None
    sealed: bytes | None = field(default=None, repr=False)

    def state(self, moment: datetime | None = None) -> KeyState:
        """What it may be used for now. Retirement needs nobody to carry it out: it follows from the clock."""
        if self.destroyed is not None:
            return "destroyed"
        if self.retires is None:
            return "active"
        return "retiring" if (moment or now()) < self.retires else "retired"

    def releasable(self, moment: datetime | None = None) -> bool:
        """Whether enclaves may get it."""
        return self.state(moment) in {"active", "retiring"}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """What :meth:`as_dict` told, without the value."""
        created, retires, destroyed = (
            value[name] and datetime.fromisoformat(value[name]) for name in ("created", "retires", "destroyed")
        )
        return cls(value["name"], value["version"], created, retires, destroyed)

    def as_dict(self) -> dict[str, Any]:
        """For people and scripts: everything but the value."""
        return {
            "name": self.name,
            "version": self.version,
            "state": self.state(),
            "created": self.created.isoformat(),
            "retires": self.retires and self.retires.isoformat(),
            "destroyed": self.destroyed and self.destroyed.isoformat(),
        }


@dataclass(frozen=True)
class StoredPolicy:
    """An appraisal policy that needs no file beside it to be trusted.

    :param text: the policy in YAML (``docs/appraisal-policy.md``), paths in it absolute.
    :param trust_root: the root certificate in PEM; none for Intel's. It stands for the path in the text.
    :param revision: the store's revision when it was last changed.
    """

    name: str
    text: str
    trust_root: str | None = None
    revision: int = 0

    @classmethod
    def from_file(cls, name: str, path: Path) -> Self:
        """Take over a policy file and the trust root that it names.

        :raises ConfigurationError: it is no policy. :raises InputError: a file cannot be read.
        """
        document = load_yaml(path.absolute(), PolicyDocument)
        root = None if document.trust_root is None else read_file(document.trust_root, limit=1 << 16)
        return cls.from_text(name, document.to_yaml(), trust_root=root)

    @classmethod
    def from_text(cls, name: str, text: str, *, trust_root: bytes | None = None) -> Self:
        """A policy from its text.

        :param trust_root: PEM, needed if the text has ``trust_root``, whose value is then not looked at.
        :raises ConfigurationError: it is no policy, or text and trust root do not go together.
        """
        document = parse_yaml(text, PolicyDocument, path=Path(f"/{check_name(name)}.yaml"))
        if (document.trust_root is None) != (trust_root is None):
            raise ConfigurationError(
                f"the policy {name} names a trust root and none is given with it, or the other way round",
                hint="Give the root certificate in PEM exactly if the policy has a line trust_root.",
            )
        pem = None if trust_root is None else _pem(_root(trust_root, name))
        policy = cls(name=name, text=document.to_yaml(), trust_root=pem)
        policy.appraisal()
        return policy

    def appraisal(self) -> AppraisalPolicy:
        """The policy, ready to appraise.

        :raises ConfigurationError: it could accept any enclave, or is not valid otherwise.
        """
        document = parse_yaml(self.text, PolicyDocument, path=Path(f"/{self.name}.yaml"))
        root = None if self.trust_root is None else _trust_root(_root(self.trust_root.encode(), self.name))
        return AppraisalPolicy.from_document(document, root=root, name=self.name)

    def as_dict(self) -> dict[str, Any]:
        """For people and scripts."""
        return {"name": self.name, "revision": self.revision, "text": self.text, "trust_root": self.trust_root}


def _root(pem: bytes, name: str) -> x509.Certificate:
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigurationError(f"the trust root of the policy {name} is not one certificate in PEM") from None
    return certificate


def _trust_root(certificate: x509.Certificate) -> TrustRoot:
    return TrustRoot.from_certificate(certificate)


def _certificates(text: str) -> str:
    """Nothing but the certificates in a text. :raises ValueError: there are none."""
    return "".join(_pem(found) for found in x509.load_pem_x509_certificates(text.encode()))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


# --- grants ---------------------------------------------------------------------------------------------------------


def _mount(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or str(path) != text:
        raise ValueError("write an absolute path without '..', '//' or a slash at the end, for example /models/digits")
    return text


class ModelDocument(Settings):
    """The model that enclaves of the grant are to serve."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    version: Annotated[int, Field(ge=1, lt=1 << 63)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="the sealed model's digest, 64 hex digits")]
    mount: Annotated[str, Field(max_length=1024), AfterValidator(_mount)]
    key: Name = Field(description="the name of the key that opens it")


class PreviousDocument(Settings):
    """What the grant named before: a replica that finds this in its storage may still open it."""

    model: ModelDocument
    key_version: KeyNumber


class Version1Document(Settings):
    """What unmodified Gramine enclaves of the grant get over protocol version 1: one key, and nothing else.

    :param key: its name. :param encoding: ``raw``: 16 bytes, for ``SECRET_PROVISION_SET_KEY`` of current Gramine;
        ``hex``: 32 hex digits and NUL, which Graphene and early Gramine expect.
    """

    key: Name
    encoding: Literal["raw", "hex"] = "raw"


class TlsDocument(Settings):
    """A certificate that the owner made for the enclaves of the grant.

    :param certificate: a chain in PEM, the enclaves' own first. :param key: the name of its private key in the store.
    :param client_authority: certificates in PEM, one of which must have signed every client's; none asks clients for
        nothing.
    """

    certificate: Annotated[str, Field(min_length=1, max_length=32 * 1024)]
    key: Name
    key_version: KeyNumber
    client_authority: Annotated[str, Field(min_length=1, max_length=32 * 1024)] | None = None

    @field_validator("certificate")
    @classmethod
    def _is_a_chain(cls, text: str) -> str:
        try:
            return _certificates(text)
        except ValueError:
            raise ValueError("must be certificates in PEM, the enclaves' own first") from None

    @field_validator("client_authority")
    @classmethod
    def _are_certificates(cls, text: str | None) -> str | None:
        try:
            return None if text is None else _certificates(text)
        except ValueError:
            raise ValueError("must be certificates in PEM") from None


class GrantDocument(Settings):
    """Which enclaves get what.

    :param policy: the name of a policy in the store. :param keys: names of keys and the version of each.
    :param previous: set by a switch to another model or key version; lasts until its key version is retired.
    :param refresh_seconds: how often a replica asks again.
    """

    deployment: Name
    policy: Name = Field(description="the name of the policy that says which enclaves")
    keys: Annotated[dict[Name, KeyNumber], Field(min_length=1, max_length=64)] = Field(
        description="names of keys and the version of each"
    )
    model: ModelDocument
    previous: PreviousDocument | None = None
    arguments: dict[str, str] = Field(default_factory=dict, description="what the enclave is to run with")
    refresh_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    version_1: Version1Document | None = None
    tls: TlsDocument | None = None

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

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a grant in YAML.

        :raises ConfigurationError: it is not valid; names file, line and setting.
        """
        return load_yaml(path, cls)

    @property
    def key_versions(self) -> set[tuple[str, int]]:
        """The key versions that it names now."""
        tls = set() if self.tls is None else {(self.tls.key, self.tls.key_version)}
        return set(self.keys.items()) | tls

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`load` reads, without settings that have their defaults."""
        return self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)

    def to_yaml(self) -> str:
        """The text that :meth:`load` reads."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False)


@dataclass(frozen=True)
class StoredGrant:
    """A grant, and the store's revision when it was last changed."""

    document: GrantDocument
    revision: int = 0

    @property
    def deployment(self) -> str:
        """Whose it is."""
        return self.document.deployment

    def as_dict(self) -> dict[str, Any]:
        """For people and scripts."""
        return {"revision": self.revision, **self.document.as_dict()}
