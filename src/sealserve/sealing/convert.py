"""What ``gramine-sgx-pf-crypt`` does, for files and directory trees, without its two traps.

Its output is replaced as a whole and appears only when it is complete, so no old nodes stay behind a smaller file; an
output that is a link or no regular file is left alone; and an input that is its own output is refused. The paths are
embedded and verified as Gramine's tool does it: the normalised output path, and the normalised input path.
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
from sealserve.sealing.leftovers import remove_leftovers
from sealserve.sealing.paths import embeddable, normalise_path
from sealserve.sealing.reader import EncryptedReader
from sealserve.sealing.storage import open_regular, refuse_irregular
from sealserve.secret import Secret

Say = Callable[[str], None]


@dataclass(frozen=True)
class Conversion:
    """One file to convert."""

    source: str
    target: str
    size: int


def plan(source: str, target: str, *, say: Say) -> tuple[list[Conversion], list[str]]:
    """Which files to convert, and which directories to make; nothing is touched yet. Links are followed.

    :param source: a file or a directory, as given by the user. :param target: likewise, where its counterpart goes.
    :param say: told of what is skipped.
    :raises InputError: the source is missing, or leads into itself by a link.
    :raises SealingTargetError: a target is a file of the source, lies inside the source, or is no regular file.
    """
    start = Path(source)
    files: list[Conversion] = []
    directories: list[str] = []
    try:
        if not start.is_dir():
            size = start.stat().st_size
            if not start.is_file():
                raise InputError(f"{source} is neither a file nor a directory")
            files.append(Conversion(source, target, size))
        else:
            _walk(source, target, files, directories, say)
        inside = start.resolve()
        for file in files:
            _check_target(Path(file.source), Path(file.target))
        if directories and any(
            inside in (made := Path(path).resolve()).parents or made == inside for path in directories
        ):
            raise SealingTargetError(f"{target} lies inside {source}", hint="Choose an output outside the input.")
    except OSError as error:
        raise explain_os_error(error, source, "read") from error
    return files, directories


def _walk(source: str, target: str, files: list[Conversion], directories: list[str], say: Say) -> None:
    pending: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(source, target, ())]
    while pending:
        inside, beside, above = pending.pop()
        status = Path(inside).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise InputError(f"{inside} leads back to a directory above it by a link", hint="Remove the link.")
        directories.append(beside)
        with os.scandir(inside) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                pair = f"{inside}/{entry.name}", f"{beside}/{entry.name}"
                if entry.is_dir():
                    pending.append((*pair, (*above, identity)))
                elif entry.is_file():
                    files.append(Conversion(*pair, entry.stat().st_size))
                else:
                    say(f"Skipping non-regular file {pair[0]}")


def _check_target(source: Path, target: Path) -> None:
    """Refuse to replace the source, and what is no regular file: renaming over ``/dev/null`` would destroy it.

    A link (such as ``/dev/stdout``) is neither replaced nor followed: somebody else may have laid it.
    """
    if os.path.lexists(target) and target.exists() and source.samefile(target):
        raise SealingTargetError(f"{source} and {target} are the same file", hint="Choose another output.")
    refuse_irregular(target)


def encrypt_tree(
    source: str, target: str, key: Secret, *, version: FormatVersion = 2, say: Say, progress: Progress = quiet
) -> None:
    """Encrypt a file or a directory; the normalised target path is embedded in each file.

    :raises SealserveError: as :func:`plan` and :func:`~sealserve.sealing.bulk.encrypt_file`.
    """
    # Gramine's tool, too, opens what it embeds. Nothing may be left of the path of a directory.
    files, directories = plan(source, normalise_path(target) or ".", say=say)
    for file in files:
        embeddable(file.target)
    _prepare(files, directories)
    done, total = 0, sum(file.size for file in files)
    for file in files:
        say(f"Encrypting: {file.source} -> {normalise_path(file.target)}")
        with (
            open_regular(Path(file.source), follow_links=True) as plain,
            atomic_writer(Path(file.target)) as sealed,
        ):
            encrypt_file(plain, sealed, key, file.target, version=version, progress=part_of(progress, done, total))
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
    _prepare(files, directories)
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


def _prepare(files: list[Conversion], directories: list[str]) -> None:
    """Make the directories, and remove what killed runs left in them."""
    for directory in directories:
        make_directory(Path(directory), mode=0o755)
    names: dict[Path, list[str]] = {}
    for file in files:
        names.setdefault(Path(file.target).parent, []).append(Path(file.target).name)
    for parent, here in names.items():
        remove_leftovers(parent, here)
