"""Where the versions of a model lie: in a directory of directories named by numbers, in the clear or sealed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sealserve.errors import ModelError
from sealserve.files import explain_os_error
from sealserve.sealing import SealedModel, open_sealed_model
from sealserve.sealing.listing import LIST_NAME, SEALS_NAME
from sealserve.sealing.model import embedded_mount
from sealserve.secret import Secret
from sealserve.serving.model_files import MemoryFiles, ModelFiles, directory_files

_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_LARGEST = (1 << 63) - 1


class Source(Protocol):
    """Where versions of one model lie. Two that are equal lead to the same versions."""

    def versions(self) -> list[int]:
        """The versions there are, in ascending order.

        :raises SealserveError: that cannot be told now.
        """

    def open(self, version: int) -> contextlib.AbstractContextManager[ModelFiles]:
        """The files of one version, open while the block runs.

        :raises SealserveError: they cannot be read, or are not what was sealed.
        """


@dataclass(frozen=True)
class PlainSource:
    """A directory with a directory for each version, named by its number: ``1/saved_model.pb``. Other names are not
    looked at; leading zeros are allowed.
    """

    base_path: Path

    def versions(self) -> list[int]:
        """:raises InputError: the directory cannot be read."""
        return sorted(self._directories())

    @contextlib.contextmanager
    def open(self, version: int) -> Iterator[ModelFiles]:
        """:raises InputError: a file cannot be read. :raises ModelError: the version is not there."""
        with contextlib.ExitStack() as stack:
            directory = self.base_path / self._directories().get(version, str(version))
            try:
                files = stack.enter_context(directory_files(directory))
            except OSError as error:  # it vanished while it was listed
                raise explain_os_error(error, directory, "read") from error
            if not files:
                raise _missing(version, self.base_path)
            yield files

    def _directories(self) -> dict[int, str]:
        try:
            with os.scandir(self.base_path) as entries:
                return _numbered(entry.name for entry in entries if entry.is_dir())
        except OSError as error:
            raise explain_os_error(error, self.base_path, "read") from error


@dataclass
class SealedSource:
    """A sealed model with a directory for each version, which is decrypted into memory when it is opened.

    :ivar key: the wrap key, 16 bytes; it must not be wiped while the source is used. Sources with different keys for
        one directory are equal: the key is changed by sealing the same model anew.
    :ivar mount: the path that it was sealed for; None takes the one that it names itself.
    """

    directory: Path
    key: Secret = field(compare=False, repr=False)
    mount: str | None = None
    _seen: tuple[object, list[int]] | None = field(default=None, init=False, compare=False, repr=False)

    def versions(self) -> list[int]:
        """What the sealed list has. It is read again when its file is another.

        :raises SealError: it is not complete, or not sealed under this key. :raises InputError: it cannot be read.
        """
        # Whoever forges this hides a new version for a while, which whoever keeps the directory can do anyway.
        identity = [_identity(self.directory / name) for name in (LIST_NAME, SEALS_NAME)]
        if self._seen is None or self._seen[0] != identity:
            self._seen = identity, sorted(self._directories(self._open()))
        return list(self._seen[1])

    @contextlib.contextmanager
    def open(self, version: int) -> Iterator[ModelFiles]:
        """:raises SealError: a file is not what was sealed. :raises ModelError: the version is not there."""
        sealed = self._open()
        directory = self._directories(sealed).get(version)
        if directory is None:
            raise _missing(version, self.directory)
        with MemoryFiles() as files:
            for entry in sealed.files:
                if entry.name.startswith(f"{directory}/"):
                    with files.add(entry.name.removeprefix(f"{directory}/")) as file:
                        sealed.copy_to(entry.name, file)
            yield files

    def _open(self) -> SealedModel:
        mount = self.mount or embedded_mount(self.directory, self.key)
        return open_sealed_model(self.directory, self.key, mount=mount)

    @staticmethod
    def _directories(sealed: SealedModel) -> dict[int, str]:
        return _numbered(
            directory for entry in sealed.files for directory, slash, _ in [entry.name.partition("/")] if slash
        )


def _numbered(names: Iterable[str]) -> dict[int, str]:
    """Names that are numbers of versions, by number; of several for one number, the last in the order of names."""
    return {int(name): name for name in sorted(set(names)) if _NUMBER.fullmatch(name) and int(name) <= _LARGEST}


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _missing(version: int, place: Path) -> ModelError:
    return ModelError(
        f"{place} has no version {version}, or no files in it",
        hint="A version is a directory named by its number, with saved_model.pb in it.",
    )
