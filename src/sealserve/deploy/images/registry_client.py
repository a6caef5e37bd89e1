"""Requests to a container registry (OCI distribution specification 1.1), with a token where it wants one.

A token goes to the registry that it is for and to nobody else, name and password to it and to the address that it names
for tokens (Docker Hub's is auth.docker.io), which has to have TLS.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

from sealserve.deploy.images.credentials import Credentials
from sealserve.errors import InputError, UnavailableError
from sealserve.files import explain_os_error

if TYPE_CHECKING:
    import urllib3

MANIFESTS: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)
_LARGEST_TOKEN: Final = 64 << 10
_SECONDS: Final = 20.0
_SECONDS_FOR_A_BLOB: Final = 600.0  # of silence: registries check a blob's digest before they answer
_PARAMETER = re.compile(r'\b(\w+)="([^"]*)"')
_SCHEME = re.compile(r"\b(basic|bearer)\s", re.IGNORECASE)


class RegistryError(UnavailableError):
    """A registry cannot be reached, or does not say what a tag means."""


class RegistryRefusedError(InputError):
    """A registry does not do what was asked of it for whoever asks."""


@dataclass(frozen=True)
class Body:
    """What is sent: ``open`` gives its bytes anew each time, since a request may have to be repeated with a token."""

    size: int
    open: Callable[[], io.RawIOBase | io.BufferedIOBase]


class RegistryClient:
    """One registry.

    :param address: ``HOST[:PORT]`` to connect to. :param scope: what a token is asked for, ``pull`` or ``pull,push``.
    """

    def __init__(
        self,
        pool: urllib3.PoolManager,
        address: str,
        *,
        insecure_http: bool,
        credentials: Credentials | None = None,
        scope: str | None = None,
    ) -> None:
        self._pool = pool
        self._base = f"{'http' if insecure_http else 'https'}://{address}"
        self._insecure_http = insecure_http
        self._credentials = credentials
        self._scope = scope
        self._authorization: str | None = None

    def ask(
        self, method: str, path: str, limit: int, *, body: Body | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Any, bytes]:
        """One request; with a token, or name and password, if the registry wants some.

        :param path: from ``/v2/`` on, or an absolute address that the registry gave.
        :param limit: the most bytes that its answer may have.
        :raises RegistryError: it answers with more, or wants what goes without TLS.
        """
        try:
            url = urljoin(f"{self._base}/", path)
            own = _origin(url) == _origin(self._base)
        except ValueError:
            raise RegistryError("the registry sends callers to what is no address") from None
        if urlsplit(url).scheme != "https" and not self._insecure_http:
            raise RegistryError("the registry sends callers to an address without TLS")
        given = dict(headers or {})
        tried = self._authorization
        answer, content = self._once(method, url, limit, body, given | (_authorization(tried) if own else {}))
        # A token may have ended meanwhile; with the same one again the answer would be the same.
        if answer.status == 401 and own and self._log_in(answer.headers.get("WWW-Authenticate", "")) != tried:
            answer, content = self._once(method, url, limit, body, given | _authorization(self._authorization))
        return answer, content

    def _log_in(self, challenge: str) -> str | None:
        schemes = {found.lower() for found in _SCHEME.findall(challenge)}
        if "bearer" in schemes:
            self._authorization = f"Bearer {self._fetch_token(dict(_PARAMETER.findall(challenge)))}"
        elif "basic" in schemes and self._credentials is not None:
            self._authorization = self._credentials.basic()
        return self._authorization

    def _once(
        self, method: str, url: str, limit: int, body: Body | None, headers: Mapping[str, str]
    ) -> tuple[Any, bytes]:
        sent = {"Accept": MANIFESTS, "User-Agent": "sealserve", **headers}
        with contextlib.ExitStack() as stack:
            options: dict[str, Any] = {}
            if body is not None:
                sent["Content-Length"] = str(body.size)
                options = {"body": stack.enter_context(body.open()), "timeout": _SECONDS_FOR_A_BLOB}
            answer = self._pool.request(method, url, headers=sent, redirect=False, preload_content=False, **options)
            stack.callback(answer.close)
            content = answer.read(limit + 1)
        if len(content) > limit:
            raise RegistryError(f"{urlsplit(url).netloc} answers with more than {limit} bytes")
        return answer, content

    def _fetch_token(self, challenge: dict[str, str]) -> str:
        try:
            realm = urlsplit(challenge.get("realm", ""))
        except ValueError:
            raise RegistryError("the registry sends callers for a token to what is no address") from None
        if realm.scheme != "https" and not (self._insecure_http and realm.scheme == "http"):
            raise RegistryError("the registry sends callers for a token to an address without TLS")
        if self._scope is not None:
            challenge = challenge | {"scope": self._scope}
        query = urlencode([(key, challenge[key]) for key in ("service", "scope") if key in challenge])
        headers = {} if self._credentials is None else _authorization(self._credentials.basic())
        answer, body = self._once(
            "GET", f"{realm.geturl()}{'&' if realm.query else '?'}{query}", _LARGEST_TOKEN, None, headers
        )
        try:
            content = json.loads(body) if answer.status == 200 else {}
            token = content.get("token") or content.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if isinstance(token, str) and re.fullmatch(r"[!-~]{1,32768}", token):
            return token
        if self._credentials is None:
            raise RegistryError(
                f"{realm.netloc} gives no token to anonymous callers",
                hint="The image may be private: log in with your container engine and ask it for the digest.",
            )
        raise RegistryRefusedError(
            f"{realm.netloc} gives no token to the user that {self._credentials.source} names",
            hint="Log in again with your container engine (`docker login`, `podman login`).",
        )


@contextlib.contextmanager
def connections(address: str, *, ca: Path | None) -> Iterator[urllib3.PoolManager]:
    """Connections for requests to ``address``.

    :param ca: PEM file of the authorities that may certify it; the system's if not given.
    :raises RegistryError: raised in the place of what the library says of connections that fail.
    """
    import urllib3

    try:
        with urllib3.PoolManager(timeout=_SECONDS, retries=False, ca_certs=None if ca is None else str(ca)) as pool:
            yield pool
    except urllib3.exceptions.HTTPError as error:
        cause = (
            "it has no valid certificate, or no TLS"
            if isinstance(error, urllib3.exceptions.SSLError)
            else _reason(error)
        )
        raise RegistryError(
            f"the registry {address} cannot be asked: {cause}",
            hint="The registry is the first part of the image's name: is that right, and is it reached?",
        ) from error
    except ConnectionError as error:  # while a body is being sent
        raise RegistryError(
            f"the registry {address} ended the connection", hint="What it has already is not sent again."
        ) from error
    except OSError as error:
        raise explain_os_error(error, error.filename or address, "read") from error


def address_of(host: str) -> str:
    """Where the registry that people call ``host`` is connected to."""
    return "registry-1.docker.io" if host == "docker.io" else host


def _authorization(value: str | None) -> dict[str, str]:
    return {} if value is None else {"Authorization": value}


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _reason(error: Exception) -> str:
    inner = error.args[-1] if error.args else error
    return str(inner)[:200]
