"""A connection to a broker's administration: HTTPS, who we are, and its errors as ours."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from sealserve.broker.administration import (
    ChangedMeanwhileError,
    InUseError,
    NameTakenError,
    NotConfirmedError,
    UnknownNameError,
)
from sealserve.broker.audit import AuditTamperedError
from sealserve.broker.store.errors import StoreTamperedError
from sealserve.errors import (
    ConfigurationError,
    InputError,
    KeyFileError,
    SealserveError,
    TrustError,
    UnavailableError,
)
from sealserve.files import read_file, read_secret_file
from sealserve.secret import Secret

_ANSWER_LIMIT = 64 << 20
_LONGEST_LINE = 1 << 21
_SECONDS = 90.0


class AdministrationRefusedError(TrustError):
    """The broker's administration does not know us, or does not let us do this."""


class AdministrationUnavailableError(UnavailableError):
    """The broker's administration cannot be reached, or cannot do it now."""


_KNOWN: Mapping[str, type[SealserveError]] = {
    kind("").reason: kind
    for kind in (
        AuditTamperedError,
        ChangedMeanwhileError,
        ConfigurationError,
        InUseError,
        InputError,
        KeyFileError,
        NameTakenError,
        NotConfirmedError,
        StoreTamperedError,
        UnknownNameError,
    )
}


@dataclass(frozen=True)
class Server:
    """Where a broker's administration is, and how we prove who we are.

    :param url: ``https://host:port``. :param ca: the authority of the server's certificate, PEM; the system's if none.
    :param token_file: holds a token, mode 0600. :param certificate: ours, PEM, and its ``private_key``.
    """

    url: str
    ca: Path | None = None
    token_file: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None


class Connection:
    """A connection to a server. To be closed.

    :raises ConfigurationError: it cannot be reached like this. :raises KeyFileError: others can read token or key.
    """

    def __init__(self, server: Server) -> None:
        self.name = _base(server.url)
        self._headers = {"Accept": "application/json", "User-Agent": "sealserve"}
        if server.token_file is None and server.certificate is None:
            raise ConfigurationError(
                "nothing says who you are", hint="Give --token-file, or --client-certificate and --client-key."
            )
        if server.token_file is not None:
            with read_secret_file(server.token_file) as token:
                self._headers["Authorization"] = _bearer(token, server.token_file)
        self._pool = urllib3.PoolManager(ssl_context=_context(server), retries=False)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        expected_revision: int | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        seconds: float = _SECONDS,
    ) -> Any:
        """One request.

        :param body: JSON-ready. :param expected_revision: of what is changed. :param query: nones are left out.
        :param seconds: to wait for the answer.
        :returns: the answer's JSON.
        :raises SealserveError: the one that the broker tells, or that it cannot be reached.
        """
        headers = dict(self._headers)
        if expected_revision is not None:
            headers |= {"If-Match": f'"{expected_revision}"'} if expected_revision else {"If-None-Match": "*"}
        if given := {name: value for name, value in (query or {}).items() if value is not None}:
            path += f"?{urlencode(given)}"
        with self._answer(method, path, body, headers, seconds) as answer:
            return self._json(answer)

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of a long answer, without newlines."""
        rest = b""
        with self._answer("GET", path, None, self._headers) as answer:
            for piece in answer.stream(1 << 16):
                *whole, rest = (rest + piece).split(b"\n")
                yield from whole
                if len(rest) > _LONGEST_LINE:
                    raise AdministrationUnavailableError(f"{self.name} sends a line that is too long")
        if rest:
            raise AdministrationUnavailableError(f"{self.name} ends its answer in the middle of a line")

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        seconds: float = _SECONDS,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer that is no refusal."""
        try:
            answer = self._pool.request(
                method,
                self.name + path,
                json=body,
                headers=dict(headers) | ({} if body is None else {"Content-Type": "application/json"}),
                redirect=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=10, read=seconds),
            )
            try:
                if answer.status >= 300:
                    raise _refusal(answer.status, self._json(answer), self.name)
                yield answer
            finally:
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise AdministrationUnavailableError(
                f"{self.name} cannot be reached: {_cause(error)}",
                hint="Check the address, and that --ca names the authority that signed the server's certificate.",
            ) from error

    def _json(self, answer: urllib3.BaseHTTPResponse) -> Any:
        content = answer.read(_ANSWER_LIMIT)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise AdministrationUnavailableError(
                f"{self.name} answers with status {answer.status} and something that is no broker's",
                hint="Is it the address in `admin: listen:` of broker.yaml?",
            )
        return value


def _base(url: str) -> str:
    try:
        parts = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError:
        parts = None
    if parts is None or parts.scheme != "https" or not parts.host or parts.auth or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{url!r} is not https://host:port", hint="Give it like https://keys.example.org:4434, and no more."
        )
    if parts.path not in {None, "", "/"}:
        raise ConfigurationError(f"{url!r} has a path", hint="Give https://host:port alone.")
    return f"https://{parts.netloc}"


def _bearer(token: Secret, path: Path) -> str:
    text = bytes(token.reveal()).strip() if len(token) else b""
    if not text or not text.isascii() or any(byte <= 32 for byte in text):
        raise KeyFileError(f"{path} holds no token", hint="`sealserve broker admin token create` makes one.")
    return f"Bearer {text.decode()}"


def _context(server: Server) -> ssl.SSLContext:
    try:
        if server.ca is None:
            context = ssl.create_default_context()
        else:
            # Not create_default_context: operators' own authorities often lack extensions that it insists on.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=read_file(server.ca).decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"{server.ca} holds no certificates in PEM") from error
    if server.certificate is not None:
        if server.private_key is None:
            raise ConfigurationError("--certificate needs --private-key")
        read_secret_file(server.private_key).wipe()
        try:
            context.load_cert_chain(server.certificate, server.private_key, password=lambda: b"")
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigurationError(f"{server.certificate} and its key cannot be used") from error
    return context


def _refusal(status: int, told: Mapping[str, Any], name: str) -> SealserveError:
    message = str(told.get("detail") or f"{name} answers with status {status}")
    hint = None if told.get("hint") is None else str(told["hint"])
    kind = _KNOWN.get(str(told.get("reason")))
    if kind is None:
        if status in {401, 403, 429}:
            kind = AdministrationRefusedError
        else:
            kind = AdministrationUnavailableError if status >= 500 else InputError
    return kind(message, hint=hint)


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    # Some of them begin with their own connection: HTTPSConnection(host=…): what happened.
    return re.sub(r"^HTTPSConnection\(.*?\): ", "", " ".join(str(reason or error).split()))
