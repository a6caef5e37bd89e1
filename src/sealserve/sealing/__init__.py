"""Gramine's encrypted files, one at a time and a whole model at a time.

The trust story: a file is encrypted under a *wrap key* of 16 bytes. Whoever has not that key learns nothing of the
content but its size, and cannot change it, nor put another file in its place, without the reader noticing. What the
format does not promise is that an older copy of the same file was not put back; a *sealed model* adds that: a list of
all files with the digests of their plaintext, whose own digest names the model.
"""

from sealserve.sealing.bulk import decrypt_file, encrypt_file
from sealserve.sealing.keys import generate_wrap_key, read_wrap_key
from sealserve.sealing.layout import FormatVersion, sealed_size
from sealserve.sealing.listing import SealedFile
from sealserve.sealing.model import SealedModel, open_sealed_model
from sealserve.sealing.paths import normalise_path
from sealserve.sealing.reader import EncryptedReader
from sealserve.sealing.sealer import seal_model, unseal_model
from sealserve.sealing.writer import EncryptedWriter

__all__ = [
    "EncryptedReader",
    "EncryptedWriter",
    "FormatVersion",
    "SealedFile",
    "SealedModel",
    "decrypt_file",
    "encrypt_file",
    "generate_wrap_key",
    "normalise_path",
    "open_sealed_model",
    "read_wrap_key",
    "seal_model",
    "sealed_size",
    "unseal_model",
]
