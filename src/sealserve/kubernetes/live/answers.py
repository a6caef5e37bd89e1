"""What an API server's answers say: lines of a stream, warnings, and refusals with their causes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

import urllib3

from sealserve.errors import SealserveError
from sealserve.kubernetes.live.errors import ClusterRefusedError, ConflictError, ForbiddenError, MissingKindError
from sealserve.kubernetes.live.kinds import Kind

HOW_TO_BE_PERMITTED: Final = "Ask whoever runs the cluster for the permission, or use another account (--context)."
_CAUSES_TOLD = 8
_LONGEST_LINE = 16 << 20
_NO_RIGHT = re.compile(r'User "[^"]*" cannot ')  # not a quota, a webhook or Pod Security, which say 403 too
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')  # RFC 9111, appendix B


def lines_of(response: urllib3.BaseHTTPResponse) -> Iterator[str]:
    rest = b""
    try:
        for piece in response.stream(1 << 16):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
            if len(rest) > _LONGEST_LINE:  # of no use to anybody, and memory is not endless
                yield rest.decode(errors="replace")
                rest = b""
        if rest:
            yield rest.decode(errors="replace")
    except urllib3.exceptions.HTTPError:
        return  # the server went away: whoever needs more asks again
    finally:
        response.close()


def warnings_of(response: urllib3.BaseHTTPResponse) -> list[str]:
    """The server's warnings to whoever sent the request."""
    return [
        re.sub(r"\\(.)", r"\1", text) for line in response.headers.getlist("Warning") for text in _WARNING.findall(line)
    ]


def refusal_of(response: urllib3.BaseHTTPResponse, what: str, kind: Kind | None) -> ClusterRefusedError:
    try:
        status = json.loads(response.data)
        details = status.get("details") or {}
        named = details.get("name")
        message = str(status.get("message") or status.get("reason"))
        causes = tuple(
            ": ".join(str(cause[part]) for part in ("field", "message") if cause.get(part))
            for cause in details.get("causes") or ()
        )[:_CAUSES_TOLD]
    except (ValueError, AttributeError, TypeError, RecursionError):  # a proxy's page, or worse
        named, causes, message = None, (), response.data[:200].decode(errors="replace").strip()
    message = message or f"HTTP {response.status}"
    if response.status == 401:
        return ForbiddenError(
            "the cluster does not know who you are (401 Unauthorized)",
            status=response.status,
            hint="The login in the kubeconfig is wrong or has expired: log in again, or use another (--context).",
        )
    if response.status == 403 and _NO_RIGHT.search(message):
        return ForbiddenError(
            f"the cluster does not permit {what}: {message}",
            status=response.status,
            causes=causes,
            hint=HOW_TO_BE_PERMITTED,
        )
    if response.status == 404 and kind is not None and not named:
        return MissingKindError(
            f"the cluster does not know the kind {kind} ({kind.api_version})",
            status=404,
            hint=kind.remedy,
        )
    error: type[ClusterRefusedError] = ConflictError if response.status == 409 else ClusterRefusedError
    return error(f"the cluster refuses {what}: {message}", status=response.status, causes=causes)


def is_passing(message: str) -> bool:
    """Whether an internal error is one that goes by: of etcd, or of a webhook that does not answer."""
    return any(word in message for word in ("etcdserver", "connection refused", "timeout", "timed out", "EOF"))


def cause_of(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return (
        error.message if isinstance(error, SealserveError) else str(reason).rpartition(": ")[2] or type(reason).__name__
    )
