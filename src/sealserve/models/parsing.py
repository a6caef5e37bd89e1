"""Parsing what somebody else made: model files, looked through before they are parsed.

A message's parts take up to seventy times their bytes in memory once parsed. So the parts are counted first
(`sealserve.wire.skim`), and a file that was made to fill the memory is an error like any other.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from sealserve.errors import InputError, ModelError
from sealserve.files import explain_os_error
from sealserve.wire.skim import SkimError, skim

MAX_FILE = (1 << 31) - 1
"""Bytes of a protobuf message, and so of a graph."""

_MAX_FIELDS = 10_000_000
_MAX_ENTRIES = 2_000_000
_MAX_PARSED = 4 << 30

M = TypeVar("M", bound=Message)


def read_model_file(path: Path) -> bytes:
    """A whole file that holds one message.

    :raises ModelError: it is no regular file or has more than 2 GiB. :raises InputError: it cannot be read.
    """
    try:
        # A pipe without a writer would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path} is no file", hint="Give a model's file or directory.")
            if status.st_size > MAX_FILE:
                raise ModelError(
                    f"{path} has {status.st_size:,} bytes: a graph has at most 2 GiB",
                    hint="Export it as a SavedModel, which keeps weights in files of their own.",
                )
            return file.read(MAX_FILE + 1)
    except OSError as error:
        raise explain_os_error(error, path, "read") from error
    except ValueError as error:  # a path with a zero byte
        raise InputError(f"{path!s} is no path") from error


def parse(data: bytes, message_type: type[M]) -> M:
    """Parse a message whose parts were counted.

    :raises ModelError: it would take too much memory. :raises DecodeError: it is no such message.
    """
    try:
        skim(data, message_type, max_bytes=_MAX_PARSED, max_fields=_MAX_FIELDS, max_entries=_MAX_ENTRIES)
        return message_type.FromString(data)
    except SkimError as error:
        raise ModelError(
            f"the model's file is not read: {error.message}", hint="No usual model is like that."
        ) from None
    except (MemoryError, ValueError) as error:
        raise DecodeError(str(error)) from error
