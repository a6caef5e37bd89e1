"""Opening a sealed model: a directory of encrypted files and the list that names them."""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path
from typing import BinaryIO

from sealserve.files import explain_os_error
from sealserve.sealing.bulk import Progress, decrypt_from, part_of, quiet
from sealserve.sealing.errors import (
    EmbeddedPathError,
    FileDigestError,
    FileMissingError,
    FileReplacedError,
    ModelDigestError,
    ModelIncompleteError,
    ModelListError,
    SealedPathError,
    UnexpectedFileError,
)
from sealserve.sealing.keys import check_wrap_key
from sealserve.sealing.listing import (
    INCOMPLETE_NAME,
    LIST_NAME,
    MAX_LIST_BYTES,
    SEALS_NAME,
    ModelList,
    SealedFile,
    Seals,
)
from sealserve.sealing.paths import join, normalise_path
from sealserve.sealing.pipeline import copy_plaintext
from sealserve.sealing.reader import EncryptedReader
from sealserve.sealing.storage import open_regular, write_all
from sealserve.secret import Secret


class SealedModel:
    """A sealed model whose list was checked. Made by :func:`open_sealed_model`.

    The key is kept by reference: whoever wipes it ends the use of this object. Not safe for several threads, except
    that :meth:`open` may be called from any.
    """

    def __init__(
        self, directory: Path, key: Secret, mount: str, listing: ModelList, identities: dict[str, bytes]
    ) -> None:
        self.directory = directory
        self.mount = mount
        """Where the enclave sees the directory, normalised."""
        self.digest: bytes = listing.digest
        """The model digest: SHA-256 of the list, 32 bytes."""
        self.files: tuple[SealedFile, ...] = listing.files
        self.directories: tuple[str, ...] = listing.directories
        """Directories without files."""
        self.total_size: int = sum(file.size for file in listing.files)
        """Bytes of plaintext of all files."""
        self._key = key
        self._identities = identities
        self._by_name = {file.name: file for file in listing.files}

    def file(self, name: str) -> SealedFile:
        """The entry of the list for ``name``.

        :raises FileMissingError: the model has no such file.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise FileMissingError(f"the model has no file {name!r}", hint="See `sealserve seal inspect`.") from None

    def open(self, name: str) -> EncryptedReader:
        """Open a file: a seekable reader of the very file that was sealed with the list.

        That it is this file is authenticated at once, and every byte when it is read. The digest of the whole
        plaintext, which would also catch a forgery by somebody who has the wrap key, is checked by :meth:`read` and
        :meth:`copy_to` only.

        :raises SealError: a subclass by cause.
        """
        entry = self.file(name)
        reader = open_member(self.directory, name, self._key, join(self.mount, name))
        if reader.size != entry.size or not hmac.compare_digest(reader.identity, self._identities[name]):
            reader.close()
            raise FileReplacedError(
                f"{name!r} is not the file that was sealed with this model",
                hint="An older or another copy was put in its place: copy the sealed model again as a whole.",
            )
        return reader

    def read(self, name: str) -> bytes:
        """The whole plaintext of a file, checked against the list.

        :raises SealError: a subclass by cause.
        """
        with self.open(name) as reader:
            content = bytearray()
            digest = copy_plaintext(reader, content.extend)
        self._check_digest(name, digest)
        return bytes(content)

    def copy_to(self, name: str, write: BinaryIO, *, progress: Progress = quiet) -> None:
        """Decrypt a whole file into ``write``, from its position on; hashing runs beside decrypting.

        :raises FileDigestError: the plaintext is not the listed one. What was written must then not be used.
        :raises SealError: another subclass by cause.
        """
        with self.open(name) as reader:
            digest = copy_plaintext(reader, lambda piece: write_all(write, piece), progress=progress)
        self._check_digest(name, digest)

    def decrypt_to(self, name: str, target: BinaryIO, *, progress: Progress = quiet) -> None:
        """Like :meth:`copy_to`, for a regular file that is replaced as a whole, with all processors."""
        with self.open(name) as reader:
            digest = decrypt_from(reader, target, digest=True, progress=progress)
        self._check_digest(name, digest)

    def verify(self, *, progress: Progress = quiet) -> None:
        """Decrypt and hash everything, and keep nothing.

        :raises SealError: a subclass by cause.
        """
        done = 0
        for file in self.files:
            with self.open(file.name) as reader:
                digest = copy_plaintext(reader, None, progress=part_of(progress, done, self.total_size))
            self._check_digest(file.name, digest)
            done += file.size

    def _check_digest(self, name: str, digest: bytes) -> None:
        if not hmac.compare_digest(digest, self.file(name).sha256):
            raise FileDigestError(
                f"the content of {name!r} is not the one that the list of the model names",
                hint="Somebody who has the wrap key replaced it, or sealing went wrong. Do not use this model.",
            )


def open_sealed_model(directory: Path, key: Secret, *, mount: str, expected_digest: bytes | None = None) -> SealedModel:
    """Open a sealed model and check its list: every file is there, is the one that was sealed with the list, under the
    path it was sealed for, and nothing else is there. The content is authenticated when it is read.

    :param key: the wrap key, 16 bytes. :param mount: where the enclave sees ``directory``.
    :param expected_digest: refuse every other model. Without it, any complete model that was sealed for this mount
        under this key is accepted, an older one too.
    :raises SealError: a subclass by cause. :raises InputError: the directory cannot be read.
    """
    check_wrap_key(key)
    mount = normalise_path(mount)
    if not mount:
        raise EmbeddedPathError("the mount path is empty", hint="Give the path at which the enclave sees the model.")
    present, empty = scan(directory)
    if LIST_NAME not in present or SEALS_NAME not in present or INCOMPLETE_NAME in present:
        raise incomplete(directory)
    listing = ModelList.decode(_read_list(directory, LIST_NAME, key, mount))
    if expected_digest is not None and not hmac.compare_digest(listing.digest, expected_digest):
        raise ModelDigestError(
            f"{directory} holds the model {listing.digest.hex()}, not {expected_digest.hex()}",
            hint="Copy the right model there, or allow this digest where it is expected.",
        )
    seals = Seals.decode(_read_list(directory, SEALS_NAME, key, mount))
    names = {file.name for file in listing.files}
    if seals.model != listing.digest or seals.identities.keys() != names:
        raise ModelListError(
            f"{SEALS_NAME} and {LIST_NAME} do not belong together", hint="Copy the sealed model again as a whole."
        )
    _check_names(present - {LIST_NAME, SEALS_NAME}, empty, names, set(listing.directories))
    model = SealedModel(directory, key, mount, listing, seals.identities)
    for file in model.files:
        model.open(file.name).close()
    return model


def is_sealed(directory: Path) -> bool:
    """Whether something at ``directory`` looks like a sealed model, complete or not."""
    return any(os.path.lexists(directory / name) for name in (LIST_NAME, INCOMPLETE_NAME))


def embedded_mount(directory: Path, key: Secret) -> str:
    """The mount path for which a model was sealed, as the embedded path of its list says. It is authentic.

    For the owner of the model, who has no other knowledge to hold it against; an enclave knows its mount path.

    :raises SealError: a subclass by cause.
    """
    if LIST_NAME not in scan(directory)[0]:
        raise incomplete(directory)
    with open_member(directory, LIST_NAME, key, None) as reader:
        mount, _, name = reader.path.rpartition("/")
    if name != LIST_NAME:
        raise SealedPathError(
            f"the list in {directory} was sealed under another name, {name!r}",
            hint="Copy the sealed model again as a whole.",
        )
    return mount or "/"


def incomplete(directory: Path) -> ModelIncompleteError:
    """The error of a directory without its list, or with the mark of a run that has not ended."""
    return ModelIncompleteError(
        f"{directory} is no complete sealed model: it has no list of files, or is still being written",
        hint="Seal the model with `sealserve seal`; an interrupted run is simply run again.",
    )


def _check_names(present: set[str], empty: set[str], files: set[str], directories: set[str]) -> None:
    if missing := files - present:
        raise FileMissingError(
            f"{_some(missing)} of the sealed model is missing", hint="Copy the sealed model again as a whole."
        )
    if added := (present - files) | (empty - directories):
        raise UnexpectedFileError(
            f"{_some(added)} is in the directory but not in the sealed model's list",
            hint="Remove it, or copy the sealed model to a directory of its own.",
        )


def _some(names: set[str]) -> str:
    first = repr(min(names))
    return first if len(names) == 1 else f"{first} (and {len(names) - 1} more)"


def _read_list(directory: Path, name: str, key: Secret, mount: str) -> bytes:
    with open_member(directory, name, key, join(mount, name)) as reader:
        if reader.size > MAX_LIST_BYTES:
            raise ModelListError(f"{name} has {reader.size} bytes; a list has at most {MAX_LIST_BYTES}")
        return reader.read()


def open_member(directory: Path, name: str, key: Secret, expected_path: str | None) -> EncryptedReader:
    """Open an encrypted file of an untrusted directory: no link, no device, nothing that blocks."""
    path = directory / name
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileMissingError(
            f"{name!r} of the sealed model is missing", hint="Copy the sealed model again as a whole."
        ) from None
    except OSError as error:
        raise explain_os_error(error, path, "read") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnexpectedFileError(f"{path} is no regular file", hint="Copy the sealed model again as a whole.")
    file = open_regular(path, follow_links=False)  # refuses what was put in its place since then
    try:
        return EncryptedReader(file, key, expected_path=expected_path, close_file=True)
    except BaseException:
        file.close()
        raise


def scan(directory: Path) -> tuple[set[str], set[str]]:
    """Names of everything in ``directory`` that is no directory, and of directories with nothing in them.

    :raises InputError: it cannot be read.
    """
    files: set[str] = set()
    empty: set[str] = set()
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(directory / prefix) as entries:
                found = list(entries)
        except OSError as error:
            raise explain_os_error(error, directory / prefix, "read") from error
        if prefix and not found:
            empty.add(prefix)
        for entry in found:
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            else:
                files.add(name)
    return files, empty
