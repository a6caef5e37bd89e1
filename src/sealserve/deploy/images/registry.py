"""What an image's tag means today: asks a registry for the digest (OCI distribution specification 1.1, "pull").

A tag is a promise that anybody with the registry's password can change; a digest is the content. ``debian:12`` is read
as container engines read it: registry ``docker.io``, repository ``library/debian``. Registries that give anonymous
callers a token first (Docker Hub, GitHub's, Quay) are asked for one; it goes to no other host than the registry.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sealserve.deploy.images.registry_client import RegistryClient, RegistryError, address_of, connections
from sealserve.errors import InputError

if TYPE_CHECKING:
    import urllib3

LARGEST_MANIFEST: Final = 4 << 20
"""Bytes: what the specification asks registries to take."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{{1,5}})?)/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Reference:
    """The name of an image: ``[HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]``.

    :ivar given: name and tag as they were written. :ivar host: of the registry, as people write it (``docker.io``).
    """

    given: str
    host: str
    path: str
    tag: str
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference. :raises InputError: it is none."""
        found = _REFERENCE.fullmatch(text) if len(text) <= 512 else None
        if found is None:
            raise InputError(f"{text[:100]!r} is no image reference", hint="For example ubuntu:24.04.")
        host, path = found["host"], found["path"]
        if host is not None and not (set(host) & set(".:") or host == "localhost"):
            host, path = None, f"{host}/{path}"
        if host in {None, "docker.io", "index.docker.io"}:
            host, path = "docker.io", path if "/" in path else f"library/{path}"
        return cls(text.partition("@")[0], host or "docker.io", path, found["tag"] or "latest", found["digest"])

    def pinned(self, digest: str) -> str:
        """The reference that means this content for ever; the tag stays in it for people to read."""
        return f"{self.given}@{digest}"

    @property
    def full(self) -> str:
        """Registry and path, as containerd calls images."""
        return f"{self.host}/{self.path}"


def resolve(reference: Reference, *, ca: Path | None = None, insecure_http: bool = False) -> str:
    """The digest (``sha256:...``) of what the tag names now; for several platforms, that of their common index.

    :param ca: PEM file of the authorities that may certify the registry; the system's if not given.
    :param insecure_http: talk to the registry without TLS: whoever is between chooses the digest.
    :raises RegistryError: the registry does not answer, or does not know the image.
    """
    if reference.digest is not None:
        return reference.digest
    address = address_of(reference.host)
    with connections(address, ca=ca) as pool:
        client = RegistryClient(pool, address, insecure_http=insecure_http)
        return digest_of(client, reference)


def digest_of(client: RegistryClient, reference: Reference) -> str:
    """The digest that the registry has for the reference's tag. :raises RegistryError: it has none."""
    path = f"/v2/{reference.path}/manifests/{reference.tag}"
    answer, _ = client.ask("HEAD", path, 0)
    _judge(answer, reference)
    digest: str = answer.headers.get("Docker-Content-Digest", "")
    if not digest:  # the specification does not demand it
        answer, body = client.ask("GET", path, LARGEST_MANIFEST)
        _judge(answer, reference)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if not _DIGEST.fullmatch(digest):
        raise RegistryError(f"the registry's digest of {reference.given} is no SHA-256")
    return digest


def _judge(answer: urllib3.BaseHTTPResponse, reference: Reference) -> None:
    match answer.status:
        case 200:
            return
        case 404:
            raise RegistryError(f"{reference.host} has no image {reference.path}:{reference.tag}")
        case 401 | 403:
            raise RegistryError(
                f"{reference.host} does not show {reference.path} to anonymous callers",
                hint="There may be no such image. If it is private, ask your container engine for the digest.",
            )
        case 429:
            raise RegistryError(f"{reference.host} answers no more for now (429)", hint="Try again later.")
        case status:
            raise RegistryError(f"{reference.host} answers with status {status}")
