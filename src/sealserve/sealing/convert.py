"""What ``gramine-sgx-pf-crypt`` does, for files and directory trees, without its two traps.

Its output is replaced as a whole and appears only when it is complete, so no old nodes stay behind a smaller file; and
an input that is its own output is refused. The paths are embedded and verified as Gramine's tool does it: the
normalised output path, and the normalised input path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import InputError
from sealserve.files import atomic_writer, explain_os_error, make_directory
from sealserve.sealing.bulk import Progress, decrypt_from, encrypt_file, part_of, quiet
from sealserve.sealing.errors import SealingTargetError
from sealserve.sealing.layout import FormatVersion, sealed_size
from sealserve.sealing.paths import embeddable, normalise_path
from sealserve.sealing.reader import EncryptedReader
from sealserve.sealing.sealer import refuse_nesting
from sealserve.secret import Secret

Say = Callable[[str], None]


@dataclass(frozen=True)
class Conversion:
    """One file to convert."""

    source: str
    target: str
    size: int


def plan(source: str, target: str, *, say: Say) -> tuple[list[Conversion], list[str]]:
    """Which files to convert, and which directories to make; nothing is touched yet.

    :param source: a file or a directory, as given by the user. :param target: likewise, where its counterpart goes.
    :param say: told of what is skipped.
    :raises InputError: the source is missing. :raises SealingTargetError: the target is the source or lies inside it.
    """
    start = Path(source)
    try:
        if not start.is_dir():
            size = start.stat().st_size
            if Path(target).exists() and start.samefile(target):
                raise SealingTargetError(f"{source} and {target} are the same file", hint="Choose another output.")
            if not start.is_file():
                raise InputError(f"{source} is neither a file nor a directory")
            return [Conversion(source, target, size)], []
        refuse_nesting(start, Path(target))
        files: list[Conversion] = []
        directories: list[str] = []
        pending = [(source, target)]
        while pending:
            inside, beside = pending.pop()
            directories.append(beside)
            with os.scandir(inside) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    pair = f"{inside}/{entry.name}", f"{beside}/{entry.name}"
                    if entry.is_dir():
                        pending.append(pair)
                    elif entry.is_file():
                        files.append(Conversion(*pair, entry.stat().st_size))
                    else:
                        say(f"Skipping non-regular file {pair[0]}")
    except OSError as error:
        raise explain_os_error(error, source, "read") from error
    return files, directories


def encrypt_tree(
    source: str, target: str, key: Secret, *, version: FormatVersion = 2, say: Say, progress: Progress = quiet
) -> None:
    """Encrypt a file or a directory; the normalised target path is embedded in each file.

    :raises SealserveError: as :func:`plan` and :func:`~sealserve.sealing.bulk.encrypt_file`.
    """
    files, directories = plan(source, target, say=say)
    for file in files:
        embeddable(file.target)
    _make(directories)
    done, total = 0, sum(file.size for file in files)
    for file in files:
        say(f"Encrypting: {file.source} -> {normalise_path(file.target)}")
        try:
            with (
                Path(file.source).open("rb", buffering=0) as plain,
                atomic_writer(Path(normalise_path(file.target))) as sealed,
            ):
                encrypt_file(plain, sealed, key, file.target, version=version, progress=part_of(progress, done, total))
        except OSError as error:
            raise explain_os_error(error, file.source, "read") from error
        done += file.size


def decrypt_tree(
    source: str, target: str, key: Secret, *, verify_path: bool = False, say: Say, progress: Progress = quiet
) -> None:
    """Decrypt a file or a directory.

    Nodes that Gramine's tool left behind a smaller file are accepted, with a remark: nothing authenticates them, and
    they are not read.

    :param verify_path: refuse a file unless its embedded path is the normalised source path.
    :raises SealError: a subclass by cause.
    """
    files, directories = plan(source, target, say=say)
    _make(directories)
    done, total = 0, sum(file.size for file in files)
    for file in files:
        say(f"Decrypting: {file.source} -> {file.target}")
        expected = file.source if verify_path else None
        with (
            EncryptedReader.open(Path(file.source), key, expected_path=expected, allow_trailing=True) as reader,
            atomic_writer(Path(file.target), mode=0o600) as plain,
        ):
            if file.size > sealed_size(reader.size):
                say(f"Ignoring {file.size - sealed_size(reader.size)} bytes behind the end of {file.source}")
            decrypt_from(reader, plain, progress=part_of(progress, done, total))
        done += file.size


def _make(directories: list[str]) -> None:
    for directory in directories:
        make_directory(Path(directory), mode=0o755)
