"""Downloads over HTTPS, by the standard library: certificates checked, sizes bounded, resumed where they stopped.

Proxies are taken from the environment (``HTTPS_PROXY``, ``NO_PROXY``), and authorities from the system or
``SSL_CERT_FILE``.
"""

from __future__ import annotations

import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sealserve import __version__
from sealserve.errors import InputError, MachineError, SealserveError, TrustError, UnavailableError
from sealserve.models.part_file import PartFile, validator_of

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and those that there will be; 0 where that is not known."""

_CHUNK = 1 << 18
_MOST_REDIRECTS = 5
_PAUSES = (1.0, 4.0)
"""Seconds before a download that broke off is gone on with."""
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", re.ASCII)
_BEGINS_ANEW = frozenset({412, 416})


class ServerCertificateError(TrustError):
    """A server's TLS certificate is not valid for it."""


class PlainHttpError(TrustError):
    """What comes over HTTP could have been changed on its way, and nothing says what it should be."""


@dataclass(frozen=True)
class Terms:
    """What a download must keep to.

    :ivar digest_known: whether the content is compared with a digest afterwards. Otherwise plain HTTP is refused, and
        so is a server that does not say how long the file is.
    :ivar timeout: seconds without a byte after which the server counts as gone.
    """

    max_bytes: int
    digest_known: bool = False
    timeout: float = 60.0


def download(url: str, part: PartFile, terms: Terms, progress: Progress = lambda _done, _total: None) -> str:
    """Download into ``part``, from where it stopped if the server can do that. It is complete then, and not yet
    compared with a digest.

    :returns: the host that sent it.
    :raises InputError: the address is none, is not there, or the file is too large.
    :raises TrustError: a certificate is not valid, or the way leads over plain HTTP.
    :raises UnavailableError: the server cannot be reached or broke off; ``part`` keeps what came.
    :raises MachineError: the disk is full.
    """
    check_address(url, terms)
    opener = _opener(terms)
    for pause in (*_PAUSES, None):
        before = part.size
        try:
            return _attempt(opener, url, part, terms, progress)
        except UnavailableError:
            if pause is None or part.size <= before:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def check_address(url: str, terms: Terms) -> SplitResult:
    """The parts of an address. :raises InputError: it is no address of a file. :raises PlainHttpError: see `Terms`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"} or not url.isprintable() or " " in url or not url.isascii():
        raise InputError(
            f"{shown(url)} is no address that can be fetched", hint="Give one that begins with https://, escaped."
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "the address holds a user name or password, which everybody on this machine could read",
            hint="Download the file with a program that keeps passwords, and give its path.",
        )
    if parts.scheme == "http" and not terms.digest_known:
        raise PlainHttpError(
            f"{shown(url)} would be fetched over plain HTTP, on which anybody on the way can change it",
            hint="Use https://, or say with --sha256 what the file is.",
        )
    return parts


def shown(url: str) -> str:
    """An address without what may be secret in it: what follows ``?``, and a user's name."""
    address, query, _ = url.partition("?")
    scheme, slashes, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}{'?…' if query else ''}"[:300]


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _MOST_REDIRECTS

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def redirect_request(  # noqa: PLR0917 - the library's signature
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        check_address(newurl, self._terms)
        fp.close()  # the library would read to the end what comes with a redirect, however much it is
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(terms: Terms) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(terms),
    ):
        opener.add_handler(handler)
    return opener


def _attempt(opener: urllib.request.OpenerDirector, url: str, part: PartFile, terms: Terms, progress: Progress) -> str:
    validator = part.validator(url)
    headers = {"User-Agent": f"sealserve/{__version__}", "Accept-Encoding": "identity"}
    if validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": validator}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `check_address` saw it
        with opener.open(request, timeout=terms.timeout) as response:
            total = _prepare(response, url, part, terms, resumed=validator)
            _receive(response, part, total, terms, progress)
            return urlsplit(response.geturl()).hostname or ""
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and (
            error.headers.get("Content-Range") == f"bytes */{part.size}" and validator
        ):
            return urlsplit(error.url or url).hostname or ""  # nothing is missing
        if error.code in _BEGINS_ANEW and validator:
            part.begin(url, None)
            return _attempt(opener, url, part, terms, progress)
        raise _explain_status(error.code, url) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _explain(error, url, part) from error
    except ValueError as error:  # a name of a host that cannot be one, here or in a redirect
        raise InputError(
            f"{shown(url)} is no address that can be fetched, or leads to one: {error}"[:500],
            hint="Check the address.",
        ) from error


def _prepare(response: Any, url: str, part: PartFile, terms: Terms, *, resumed: str | None) -> int:
    """Have ``part`` end where the response begins. Returns how long the whole is; 0 if that is not known."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UnavailableError(
            f"{shown(url)} comes in an encoding that was not asked for", hint="Use another server, or a local path."
        )
    length = response.length  # None in chunks, and until the connection ends
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        same = validator_of(response.headers) in {None, resumed}
        if not resumed or not found or int(found[1]) != part.size or not same:
            part.begin(url, None)
            raise UnavailableError(f"{shown(url)} gave another part than was asked for", hint="Try it again.")
        total = int(found[2])
    else:
        part.begin(url, validator_of(response.headers))
        total = length or 0
        if length is None and not response.chunked and not terms.digest_known:
            raise UnavailableError(
                f"{shown(url)} does not say how long the file is, so that nobody could tell whether it came whole",
                hint="Say with --sha256 what the file is, or use another server.",
            )
    if total > terms.max_bytes:
        raise _too_large(url, terms, total)
    free = shutil.disk_usage(part.path.parent).free
    if total - part.size > free:
        raise MachineError(
            f"the file has {total:,} bytes, and {part.path.parent} has {free:,} left",
            hint="Free some disk space or choose another directory.",
        )
    return total


def _receive(response: Any, part: PartFile, total: int, terms: Terms, progress: Progress) -> None:
    while piece := response.read1(_CHUNK):
        if part.size + len(piece) > terms.max_bytes:
            part.remove()
            raise _too_large(response.geturl(), terms, None)
        part.append(piece)
        progress(part.size, total)
    if total and part.size != total:
        raise http.client.IncompleteRead(b"", total - part.size)


def _too_large(url: str, terms: Terms, size: int | None) -> InputError:
    text = f"{size:,} bytes" if size else "more bytes"
    return InputError(
        f"{shown(url)} has {text}: more than the {terms.max_bytes:,} that may be fetched",
        hint="Is it the right file? Allow more with --max-size.",
    )


def _explain_status(code: int, url: str) -> SealserveError:
    phrase = f"{code} {http.client.responses.get(code, '')}".strip()
    text = f"{shown(url)} cannot be fetched: the server says {phrase}"
    if 300 <= code < 400:
        return InputError(text, hint="It leads on too often, or to what is no address. Check the address.")
    if code in {401, 403}:
        return InputError(text, hint="Download the file with a program that can log in, and give its path.")
    if code in {408, 429} or code >= 500:
        return UnavailableError(text, hint="Try it again later: what is there is kept.")
    return InputError(text, hint="Check the address.")


def _explain(error: Exception, url: str, part: PartFile) -> SealserveError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ServerCertificateError(
            f"the certificate of {urlsplit(url).hostname} is not valid: {cause.verify_message}",
            hint="Somebody may be between you and the server. If the authority is your own, name its file in the "
            "environment variable SSL_CERT_FILE.",
        )
    if isinstance(cause, http.client.IncompleteRead):
        text = f"the connection ended after {part.size:,} bytes"
    elif isinstance(cause, TimeoutError):
        text = "nothing came for a while"
    else:
        text = str(cause) or type(cause).__name__
    return UnavailableError(
        f"{shown(url)} cannot be fetched: {text}"[:500],
        hint="Run the command again: it goes on where it stopped, if the server can do that."
        if part.size
        else "Check the address and your connection; a proxy is named in HTTPS_PROXY.",
    )
