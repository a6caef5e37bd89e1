"""The paths of TensorFlow Serving's REST API (``tensorflow_serving/model_servers/http_rest_api_util.cc``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from sealserve.serving.core import ModelChoice
from sealserve.serving.errors import RequestError

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PATHS = {
    "POST": re.compile(_MODEL + r":(?P<what>classify|regress|predict)", re.IGNORECASE),
    "GET": re.compile(_MODEL + r"(?:/(?P<what>metadata))?", re.IGNORECASE),
}
_MOST_NAME = 1024  # characters: errors repeat it
_MAX_INT64 = (1 << 63) - 1


@dataclass(frozen=True)
class Target:
    """What a request is for. :ivar what: ``classify``, ``regress``, ``predict``, ``metadata`` or ``status``."""

    choice: ModelChoice
    what: str


def find_target(method: str, path: str) -> Target:
    """Read a path, as it came.

    :raises RequestError: it is none of those, for this method.
    """
    found = _PATHS[method].fullmatch(path) if method in _PATHS else None
    if found is None:
        if method == "GET" and path.lower() == "/v1/models":
            raise RequestError("Missing model name in request.")
        raise RequestError(f"Malformed request: {method} {path}"[:_MOST_NAME])
    return Target(
        ModelChoice(decoded(found["name"], "model name"), read_version(found["version"]), _label(found["label"])),
        (found["what"] or "status").lower(),
    )


def decoded(text: str, what: str) -> str:
    """Part of a path without its escapes. :raises RequestError: that is not UTF-8, or too long."""
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise RequestError(f"Failed to decode {what}:{text[:_MOST_NAME]}") from error
    if len(plain) > _MOST_NAME:
        raise RequestError(f"the {what} has {len(plain)} characters; at most {_MOST_NAME} are supported")
    return plain


def read_version(text: str | None) -> int | None:
    """A version's number. :raises RequestError: it has more than 64 bits."""
    if text is None:
        return None
    if len(text) > 19 or int(text) > _MAX_INT64:
        raise RequestError(f"Failed to convert version: {text[:_MOST_NAME]} to numeric.")
    return int(text)


def _label(text: str | None) -> str | None:
    return None if text is None else decoded(text, "model version label")
