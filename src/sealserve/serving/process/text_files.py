"""Files of protobuf text, as TensorFlow Serving reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from sealserve.errors import ConfigurationError, InputError
from sealserve.files import read_file

M = TypeVar("M", bound=Message)

_MOST_BYTES = 4 << 20


def read_text(path: Path, flag: str) -> str:
    """The text of a file. :raises ConfigurationError: it cannot be read or is not UTF-8."""
    try:
        return read_file(path, limit=_MOST_BYTES).decode()
    except InputError as error:
        raise ConfigurationError(f"--{flag}: {error.message}", hint=error.hint) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"--{flag}: {path} is not text (UTF-8)", hint=f"It is protobuf text. See {_EXAMPLES}."
        ) from error


def parse_text(text: str, kind: type[M], *, path: Path, flag: str, secret: bool = False) -> M:
    """The message in a text.

    :param secret: the text holds a key: an error says where it is, and not what is there.
    :raises ConfigurationError: it is no such message.
    """
    try:
        return text_format.Parse(text, kind())
    except text_format.ParseError as error:
        line = error.GetLine()
        where = f"line {line}" if secret and line else "it" if secret else str(error)
        # The error quotes the text: without `from None` a traceback would show it.
        raise ConfigurationError(
            f"--{flag}: {path} is no {kind.DESCRIPTOR.full_name} as protobuf text: {where}"
            + (" cannot be parsed" if secret else ""),
            hint=f"See {_EXAMPLES}.",
        ) from None


_EXAMPLES = "docs/serving.md for an example"
