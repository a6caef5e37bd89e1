"""Getting small answers over HTTPS, within a time: no redirections, no compression, bounded size, with retries."""

from __future__ import annotations

import contextlib
import email.utils
import logging
import random
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from sealserve.errors import ConfigurationError
from sealserve.evidence.errors import CollateralServiceError
from sealserve.logs import event, get_logger

if TYPE_CHECKING:
    import urllib3

ANSWER_LIMIT = 256 << 10
"""Bytes of one answer. TCB info has about 10 KB; revocation lists grow, and had 60 KB at most so far."""

NO_PROXY = "none"
"""As a proxy: connect directly, whatever the environment says."""

_ATTEMPTS = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 3.0
_STEP_SECONDS = 10.0  # to connect, and between two pieces of an answer
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_USER_AGENT = "sealserve"

_log = get_logger(__name__)


@dataclass(frozen=True)
class Answer:
    """An answer with status 200.

    :param headers: by lower-case name.
    """

    headers: Mapping[str, str]
    body: bytes


class _PassingError(Exception):
    """A failure that may be over in a moment.

    :param wait: seconds that the service asked for.
    """

    def __init__(self, text: str, *, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


class HttpClient:
    """Gets small answers. Safe for several threads.

    :param ca: PEM file of the authorities that are trusted to certify the service; the system's if not given.
    :param proxy: URL of a proxy, ``none`` for a direct connection; ``HTTPS_PROXY`` and ``NO_PROXY`` if not given.
    :param insecure_allow_http: connect without TLS to a URL that says so; every use is logged.
    :raises ConfigurationError: the file holds no certificates.
    """

    def __init__(
        self,
        *,
        ca: Path | None = None,
        proxy: str | None = None,
        insecure_allow_http: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        import urllib3

        self._urllib3 = urllib3
        self._tls = _context(ca)
        self._proxy = proxy
        self._insecure_allow_http = insecure_allow_http
        self._pause = pause
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def get(self, url: str, *, deadline: float, missing: str | None = None) -> Answer:
        """Get ``url``.

        :param deadline: by ``time.monotonic``; retries and pauses stay within it.
        :param missing: what it means when the service answers 404.
        :raises CollateralServiceError: there is no usable answer in time.
        """
        if urlsplit(url).scheme != "https":
            if not self._insecure_allow_http:
                raise CollateralServiceError(f"{_shown(url)} is not fetched without TLS")
            event(_log, logging.WARNING, "insecure-http-used", url=_shown(url))
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._once(url, deadline, missing)
            except _PassingError as error:
                pause = max(error.wait, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1))  # noqa: S311
                if attempt == _ATTEMPTS or time.monotonic() + pause >= deadline:
                    raise CollateralServiceError(f"{_shown(url)}: {error}") from error
                event(_log, logging.DEBUG, "collateral-request-repeated", url=_shown(url), reason=error)
                self._pause(pause)
        raise CollateralServiceError(f"{_shown(url)} cannot be fetched")

    def close(self) -> None:
        """Close idle connections."""
        for pool in self._pools.values():
            pool.clear()

    def _once(self, url: str, deadline: float, missing: str | None) -> Answer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise CollateralServiceError(f"{_shown(url)}: no answer in time")
        step = min(_STEP_SECONDS, left)
        with self._explained(url):
            response = self._pool_for(url).request(
                "GET",
                url,
                headers={"Accept-Encoding": "identity", "User-Agent": _USER_AGENT},
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=self._urllib3.Timeout(connect=step, read=step),
            )
            try:
                self._judge(response, url, missing)
                return Answer({k.lower(): v for k, v in response.headers.items()}, _read(response, url, deadline))
            finally:
                # A connection whose answer was not read to its end cannot be used again.
                response.close()
                response.release_conn()

    @staticmethod
    def _judge(response: urllib3.BaseHTTPResponse, url: str, missing: str | None) -> None:
        status = response.status
        if status in _PASSING:
            raise _PassingError(f"it answers {status}", wait=_retry_after(response.headers.get("Retry-After")))
        if 300 <= status < 400:
            raise CollateralServiceError(
                f"{_shown(url)} answers with a redirection, which is not followed", hint="Name the service itself."
            )
        if status == 404 and missing is not None:
            raise CollateralServiceError(f"{_shown(url)}: {missing}")
        if status != 200:
            raise CollateralServiceError(f"{_shown(url)} answers {status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise CollateralServiceError(f"{_shown(url)} answers in a compressed form that was not asked for")

    @contextlib.contextmanager
    def _explained(self, url: str) -> Iterator[None]:
        """Turn the library's errors into ours."""
        errors = self._urllib3.exceptions
        try:
            yield
        except (errors.SSLError, ssl.SSLError) as error:
            refused = _certificate_refusal(error)
            if refused is None:
                raise _PassingError("the TLS handshake failed") from error
            raise CollateralServiceError(
                f"{_shown(url)}: its TLS certificate is not accepted: {refused}",
                hint="If the service has a CA of its own, name its certificate in `ca`.",
            ) from error
        except errors.ProxyError as error:
            refused = _certificate_refusal(error)
            if refused is not None:
                raise CollateralServiceError(
                    f"{_shown(url)}: the TLS certificate of the proxy or the service is not accepted: {refused}"
                ) from error
            raise _PassingError("the proxy does not connect to it") from error
        except errors.NameResolutionError as error:
            raise _PassingError("its name cannot be resolved") from error
        except errors.NewConnectionError as error:  # which the library counts among the timeouts
            raise _PassingError("the connection failed") from error
        except (errors.TimeoutError, TimeoutError) as error:
            raise _PassingError("it does not answer in time") from error
        except (errors.HTTPError, OSError) as error:
            raise _PassingError("the connection failed") from error

    def _pool_for(self, url: str) -> urllib3.PoolManager:
        proxy = self._proxy_for(url)
        if proxy not in self._pools:
            self._pools[proxy] = self._new_pool(proxy)
        return self._pools[proxy]

    def _proxy_for(self, url: str) -> str | None:
        if self._proxy == NO_PROXY:
            return None
        if self._proxy is not None:
            return self._proxy
        parts = urlsplit(url)
        if urllib.request.proxy_bypass_environment(parts.netloc):  # type: ignore[attr-defined]
            return None
        return urllib.request.getproxies_environment().get(parts.scheme) or None

    def _new_pool(self, proxy: str | None) -> urllib3.PoolManager:
        if proxy is None:
            return self._urllib3.PoolManager(ssl_context=self._tls, num_pools=4)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host = parts.netloc.rpartition("@")[2]
        headers = None
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = self._urllib3.make_headers(proxy_basic_auth=login)
        try:
            return self._urllib3.ProxyManager(
                urlunsplit((parts.scheme, host, "", "", "")),
                proxy_headers=headers,
                ssl_context=self._tls,
                proxy_ssl_context=self._tls,
                num_pools=4,
            )
        except (self._urllib3.exceptions.HTTPError, ValueError) as error:
            raise CollateralServiceError(
                f"{host} is not usable as a proxy", hint="Correct `proxy`, or HTTPS_PROXY in the environment."
            ) from error


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{ca} holds no certificates in PEM, or cannot be read",
            hint="`ca` names the certificate of the authority that certified the collateral service.",
        ) from error


def _read(response: urllib3.BaseHTTPResponse, url: str, deadline: float) -> bytes:
    body = bytearray()
    # What has arrived, and not so many bytes: whoever sends one a second must meet the deadline all the same.
    while piece := response.read1(16 << 10, decode_content=False):
        body += piece
        if len(body) > ANSWER_LIMIT:
            raise CollateralServiceError(f"{_shown(url)} answers with more than {ANSWER_LIMIT >> 10} KiB")
        if time.monotonic() >= deadline:
            raise CollateralServiceError(f"{_shown(url)}: no whole answer in time")
    return bytes(body)


def _certificate_refusal(error: BaseException | None) -> str | None:
    """Why a TLS certificate was refused; none if it was something else."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for candidate in (error, *error.args, getattr(error, "reason", None)):
            if isinstance(candidate, ssl.SSLCertVerificationError):
                return str(candidate.verify_message)
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return "it cannot be verified"
        error = error.__cause__ or error.__context__
    return None


def _retry_after(value: str | None) -> float:
    """Seconds to wait; the header has a number of them, or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return 0.0
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _shown(url: str) -> str:
    """A URL for people: without its query."""
    return url.partition("?")[0]
