"""The files of one model version: their sizes, and their content when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import ModelError
from sealserve.files import explain_os_error
from sealserve.models.parsing import read_model_file

_MOST_FILES = 100_000


@dataclass(frozen=True)
class VersionFiles:
    """A version, wherever it is kept.

    :ivar sizes: bytes by the files' names, such as ``variables/variables.index``.
    :ivar read: gives the content of one that holds a message.
    """

    sizes: Mapping[str, int]
    read: Callable[[str], bytes]


def files_on_disk(directory: Path) -> VersionFiles:
    """The files under a directory; links are not followed into other directories.

    :raises ModelError: there are too many. :raises InputError: the directory cannot be read.
    """
    sizes: dict[str, int] = {}
    try:
        for parent, _, names in os.walk(directory, onerror=_raise):
            for name in names:
                path = Path(parent, name)
                if path.is_file():
                    sizes[path.relative_to(directory).as_posix()] = path.stat().st_size
                if len(sizes) > _MOST_FILES:
                    raise ModelError(f"{directory} has more than {_MOST_FILES:,} files", hint="Is it a model?")
    except OSError as error:
        raise explain_os_error(error, directory, "read") from error
    return VersionFiles(sizes, lambda name: read_model_file(directory / name))


def _raise(error: OSError) -> None:
    raise error
