"""What an image's tag means today: asks a registry for the digest (OCI distribution specification 1.1, "pull").

A tag is a promise that anybody with the registry's password can change; a digest is the content. ``debian:12`` is read
as container engines read it: registry ``docker.io``, repository ``library/debian``. Registries that give anonymous
callers a token first (Docker Hub, GitHub's, Quay) are asked for one; it goes to no other host than the registry.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

from sealserve.errors import InputError, UnavailableError

if TYPE_CHECKING:
    import urllib3

_MANIFESTS: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)
_LARGEST_MANIFEST: Final = 4 << 20  # what the specification asks registries to take
_LARGEST_TOKEN: Final = 64 << 10
_SECONDS: Final = 20.0
_PARAMETER = re.compile(r'\b(\w+)="([^"]*)"')
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{{1,5}})?)/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class RegistryError(UnavailableError):
    """A registry cannot be reached, or does not say what a tag means."""


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


def resolve(reference: Reference, *, ca: Path | None = None, insecure_http: bool = False) -> str:
    """The digest (``sha256:...``) of what the tag names now; for several platforms, that of their common index.

    :param ca: PEM file of the authorities that may certify the registry; the system's if not given.
    :param insecure_http: talk to the registry without TLS: whoever is between chooses the digest.
    :raises RegistryError: the registry does not answer, or does not know the image.
    """
    import urllib3

    if reference.digest is not None:
        return reference.digest
    host = "registry-1.docker.io" if reference.host == "docker.io" else reference.host
    url = f"{'http' if insecure_http else 'https'}://{host}/v2/{reference.path}/manifests/{reference.tag}"
    try:
        with urllib3.PoolManager(timeout=_SECONDS, retries=False, ca_certs=None if ca is None else str(ca)) as pool:
            return _digest_of(_Registry(pool, insecure_http=insecure_http), url, reference)
    except urllib3.exceptions.HTTPError as error:
        cause = (
            "it has no valid certificate, or no TLS"
            if isinstance(error, urllib3.exceptions.SSLError)
            else _reason(error)
        )
        raise RegistryError(f"the registry {host} cannot be asked: {cause}", hint="Check name and network.") from error


class _Registry:
    def __init__(self, pool: urllib3.PoolManager, *, insecure_http: bool) -> None:
        self._pool = pool
        self._insecure_http = insecure_http
        self._token: str | None = None

    def ask(self, method: str, url: str, limit: int) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        """One request, with a token if the registry wants one."""
        answer, body = self._once(method, url, limit)
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.status == 401 and self._token is None and challenge.lower().startswith("bearer "):
            self._token = self._fetch_token(dict(_PARAMETER.findall(challenge)))
            answer, body = self._once(method, url, limit)
        return answer, body

    def _once(self, method: str, url: str, limit: int, *, token: bool = True) -> tuple[Any, bytes]:
        headers = {"Accept": _MANIFESTS, "User-Agent": "sealserve"}
        if token and self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        answer = self._pool.request(method, url, headers=headers, redirect=False, preload_content=False)
        try:
            body = answer.read(limit + 1)
        finally:
            answer.close()
        if len(body) > limit:
            raise RegistryError(f"{urlsplit(url).netloc} answers with more than {limit} bytes")
        return answer, body

    def _fetch_token(self, challenge: dict[str, str]) -> str:
        realm = urlsplit(challenge.get("realm", ""))
        if realm.scheme != "https" and not (self._insecure_http and realm.scheme == "http"):
            raise RegistryError("the registry sends callers for a token to an address without TLS")
        query = urlencode([(key, challenge[key]) for key in ("service", "scope") if key in challenge])
        answer, body = self._once(
            "GET", f"{realm.geturl()}{'&' if realm.query else '?'}{query}", _LARGEST_TOKEN, token=False
        )
        try:
            content = json.loads(body) if answer.status == 200 else {}
            token = content.get("token") or content.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,32768}", token):
            raise RegistryError(
                f"{realm.netloc} gives no token to anonymous callers",
                hint="The image may be private: log in with your container engine and ask it for the digest.",
            )
        return token


def _digest_of(registry: _Registry, url: str, reference: Reference) -> str:
    answer, _ = registry.ask("HEAD", url, 0)
    _judge(answer, reference)
    digest = answer.headers.get("Docker-Content-Digest", "")
    if not digest:  # the specification does not demand it
        answer, body = registry.ask("GET", url, _LARGEST_MANIFEST)
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


def _reason(error: Exception) -> str:
    inner = error.args[-1] if error.args else error
    return str(inner)[:200]
