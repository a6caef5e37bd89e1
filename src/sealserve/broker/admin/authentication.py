"""Who asks, and what they may do."""

from __future__ import annotations

import logging
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from aiohttp import web

from sealserve.broker.admin.problems import HttpError
from sealserve.broker.admin.settings import AdminSettings, ClientCertificates
from sealserve.broker.store import StoreState
from sealserve.broker.store.tokens import ROLES, Role, StoredToken, split_token
from sealserve.logs import event, get_logger

_log = get_logger(__name__)
_BURST = 10
_SECONDS_EACH = 6.0
_ADDRESSES = 1000


@dataclass(frozen=True)
class Administrator:
    """Somebody who proved who they are.

    :param actor: for the audit chain: ``token:NAME#ID`` or ``certificate:COMMON NAME``.
    """

    actor: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether what needs ``role`` is allowed."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Authenticator:
    """Tells administrators from others.

    :param state: gives the store's state as it was read last; raises if it cannot be trusted.
    """

    def __init__(self, settings: AdminSettings, state: Callable[[], StoreState]) -> None:
        self._settings = settings
        self._state = state
        self._failures = Failures()
        # So that an unknown token takes as long as a known one with a wrong secret.
        self._unknown, _ = StoredToken.make("unknown", "viewer", timedelta(0))

    def require(self, request: web.Request, role: Role) -> Administrator:
        """Who asks.

        :raises HttpError: they do not prove it (401, and 429 for too many attempts), or may not do it (403).
        :raises SealserveError: the store cannot be trusted, so nor can the tokens in it.
        """
        try:
            who = self._identify(request)
        except HttpError as error:
            if error.status != HTTPStatus.UNAUTHORIZED or error.reason == "no-credentials":
                raise
            address = request.remote or ""
            if not self._failures.admit(address):
                raise HttpError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "too many attempts to authenticate failed",
                    headers={"Retry-After": str(int(_SECONDS_EACH))},
                ) from error
            event(_log, logging.WARNING, "administrator-refused", peer=address, reason=error.reason)
            raise
        if not who.may(role):
            raise HttpError(
                HTTPStatus.FORBIDDEN, f"{who.actor} is a {who.role}, and this is for {role}s", reason="role-too-low"
            )
        return who

    def _identify(self, request: web.Request) -> Administrator:
        given = request.headers.getall("Authorization", [])
        if given and self._settings.tokens:
            return self._by_token(given)
        certificate = _peer_certificate(request)
        if not given and certificate is not None and self._settings.clients is not None:
            return _by_certificate(certificate, self._settings.clients)
        if given:
            raise _unauthorized("bearer tokens are not accepted here", "no-tokens-here")
        raise _unauthorized("administration needs authentication", "no-credentials")

    def _by_token(self, given: list[str]) -> Administrator:
        scheme, _, text = given[0].partition(" ")
        parts = split_token(text.strip().encode(errors="replace"))
        if len(given) > 1 or scheme.lower() != "bearer" or parts is None:
            raise _unauthorized("the Authorization header holds no token of sealserve", "token-malformed")
        identifier, secret = parts
        token = self._state().tokens.get(identifier)
        fits = (token or self._unknown).is_secret(secret)
        if token is None or not fits:
            raise _unauthorized("the token is not known", "token-unknown")
        if (state := token.state()) != "active":
            raise _unauthorized(f"the token is {state}", f"token-{state}")
        return Administrator(f"token:{token.name}#{token.id}", token.role)


def _by_certificate(certificate: ssl._PeerCertRetDictType, clients: ClientCertificates) -> Administrator:
    """TLS has verified it already: only ``clients.authority`` is trusted in these handshakes."""
    subject = certificate.get("subject", ())
    names = [value for part in subject for name, value in part if name == "commonName"]  # type: ignore[str-unpack]
    if len(names) == 1 and names[0] in clients.operators:
        return Administrator(f"certificate:{names[0]}", "operator")
    if len(names) == 1 and names[0] in clients.viewers:
        return Administrator(f"certificate:{names[0]}", "viewer")
    raise HttpError(
        HTTPStatus.FORBIDDEN,
        "the client certificate names nobody who may administer",
        reason="certificate-not-listed",
        hint="Its one common name must stand among admin.clients.operators or viewers in broker.yaml.",
    )


def _peer_certificate(request: web.Request) -> ssl._PeerCertRetDictType | None:
    connection = request.get_extra_info("ssl_object")
    return (connection.getpeercert() or None) if isinstance(connection, ssl.SSLObject) else None


def _unauthorized(message: str, reason: str) -> HttpError:
    return HttpError(
        HTTPStatus.UNAUTHORIZED,
        message,
        reason=reason,
        hint="Send a token in the header `Authorization: Bearer …`: `sealserve broker admin token create` makes one.",
        headers={"WWW-Authenticate": 'Bearer realm="sealserve"'},
    )


class Failures:
    """Counts failed attempts by address: ten at once, then one in six seconds.

    What is limited is answers and lines in the log. A right token passes whoever else fails behind the same address:
    its 256 bits are not guessed, and an address that is shut out could be an operator's.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, address: str) -> bool:
        """Whether one more failure of this address is answered as such."""
        now = self._clock()
        left, then = self._left.pop(address, (float(_BURST), now))
        left = min(float(_BURST), left + (now - then) / _SECONDS_EACH)
        admitted = left >= 1
        self._left[address] = (left - 1 if admitted else left, now)
        while len(self._left) > _ADDRESSES:
            self._left.popitem(last=False)
        return admitted
