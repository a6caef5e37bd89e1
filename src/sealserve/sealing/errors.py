"""Refusals of the encrypted-file format and of sealed models."""

from __future__ import annotations

from sealserve.errors import InputError, SealError


class NotSealedError(SealError):
    """The file does not begin like one of Gramine's encrypted files."""


class UnsupportedFormatError(SealError):
    """The file has a format version that is neither 1 nor 2."""


class SealBrokenError(SealError):
    """A tag does not match: the wrap key is another one, or the file was changed. The two look the same."""


class SealedLengthError(SealError):
    """The file is shorter or longer than the plaintext size in its authenticated header asks for."""


class RecoveryNeededError(SealError):
    """The file says that a write was interrupted (feature flag bit 0, version 2)."""


class SealedPathError(SealError):
    """The path embedded in the file is not the one under which it was opened."""


class SealedModelError(SealError):
    """Base of refusals of a sealed model as a whole."""


class ModelIncompleteError(SealedModelError):
    """The directory has no list of files: it is no sealed model, or sealing was interrupted."""


class ModelListError(SealedModelError):
    """The list of files is authentic but says something that cannot be followed."""


class ModelDigestError(SealedModelError):
    """The model in the directory is another one than the expected one."""


class FileMissingError(SealedModelError):
    """A file of the list is not in the directory."""


class UnexpectedFileError(SealedModelError):
    """The directory holds something that the list does not name."""


class FileReplacedError(SealedModelError):
    """A file is authentic, but it is not the one that was sealed with this list: an older or another copy."""


class FileDigestError(SealedModelError):
    """A file's plaintext is not the one that the list names."""


class EmbeddedPathError(InputError):
    """A path cannot be embedded: empty, not UTF-8, with a NUL, or longer than 771 bytes."""


class SealingTargetError(InputError):
    """A file or directory cannot be the target: it is or touches the source, is not empty, or is no regular file."""


def named(error: SealError, label: str) -> SealError:
    """The same refusal, saying which file it is about."""
    return type(error)(f"{label}: {error.message}", hint=error.hint) if label else error
