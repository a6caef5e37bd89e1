"""The master key: where it lies, and what is done with it.

From the master key (32 bytes) and the store's own random name, HKDF-SHA256 makes one key that encrypts (AES-256-GCM)
and one that authenticates (HMAC-SHA256), so that nothing of one store is valid in another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealserve.broker.store.errors import StoreTamperedError, WrongMasterKeyError
from sealserve.errors import ConfigurationError, KeyFileError
from sealserve.files import PRIVATE, explain_os_error, read_secret_file, sync_directory, write_atomically
from sealserve.secret import Secret

MASTER_KEY_SIZE = 32
VARIABLE = "SEALSERVE_MASTER_KEY_FILE"
CREDENTIAL = "sealserve-master-key"
_NONCE_SIZE = 12


class StoreCipher:
    """Encrypts and authenticates what one store holds.

    :param master: 32 bytes; not needed any more afterwards. :param store_id: the store's own name.
    """

    def __init__(self, master: Secret, store_id: str) -> None:
        self._store_id = store_id
        self._aead = AESGCM(_derive(master, store_id, b"encrypt"))
        self._mac_key = Secret(_derive(master, store_id, b"authenticate"))

    def seal(self, kind: str, name: str, version: int, value: Secret) -> bytes:
        """Nonce (12 bytes), ciphertext and tag (16 bytes), bound to what the value is."""
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + self._aead.encrypt(nonce, bytes(value.reveal()), self._bound_to(kind, name, version))

    def open(self, kind: str, name: str, version: int, sealed: bytes) -> Secret:
        """The value again.

        :raises StoreTamperedError: it was changed, or is another one's.
        """
        try:
            clear = self._aead.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], self._bound_to(kind, name, version))
        except (InvalidTag, ValueError) as error:
            raise StoreTamperedError(
                f"the {kind} {name} (version {version}) in the store was changed, or is that of another name",
                hint="Restore the database from a backup, and find out who wrote to it.",
            ) from error
        return Secret(clear)

    def mac(self, purpose: str, data: bytes = b"") -> str:
        """Authenticates ``data``: HMAC-SHA256 in hex."""
        label = purpose.encode()
        return hmac.new(self._mac_key.reveal(), bytes([len(label)]) + label + data, hashlib.sha256).hexdigest()

    def check(self) -> str:
        """What tells this master key from others."""
        return self.mac("check value")

    def _bound_to(self, kind: str, name: str, version: int) -> bytes:
        return json.dumps(["sealserve/store/v1", self._store_id, kind, name, version]).encode()


def _derive(master: Secret, store_id: str, purpose: bytes) -> bytes:
    info = b"sealserve/store/v1/" + purpose
    return HKDF(hashes.SHA256(), 32, salt=store_id.encode(), info=info).derive(bytes(master.reveal()))


@dataclass(frozen=True)
class MasterKeyPlace:
    """The file that holds the master key, 32 raw bytes, mode 0600.

    Beside it there may be one called ``….next``: the key that the store is being moved to (:meth:`Store.rewrap`).

    :param guarded: the directory is systemd's credentials directory, which guards its files itself.
    """

    path: Path
    guarded: bool = False

    @classmethod
    def find(cls, path: Path | None) -> MasterKeyPlace:
        """The place: ``path`` from the settings, else the file that ``SEALSERVE_MASTER_KEY_FILE`` names, else
        systemd's credential ``sealserve-master-key``.

        :raises ConfigurationError: none of them is given.
        """
        if path is not None:
            return cls(path)
        if named := os.environ.get(VARIABLE):
            return cls(Path(named))
        if directory := os.environ.get("CREDENTIALS_DIRECTORY"):
            return cls(Path(directory) / CREDENTIAL, guarded=True)
        raise ConfigurationError(
            "nothing says where the store's master key is",
            hint=f"Set master_key in broker.yaml, {VARIABLE} to the name of a file, "
            f"or LoadCredential={CREDENTIAL}:… in the broker's systemd unit.",
        )

    @property
    def next(self) -> Path:
        """Where the key lies that the store is being moved to."""
        return self.path.with_name(self.path.name + ".next")

    def make(self) -> Secret:
        """The master key; a new one if there is none.

        :raises KeyFileError: the file is no master key, or readable by others.
        """
        if not self.path.exists():
            write_atomically(self.path, os.urandom(MASTER_KEY_SIZE), mode=PRIVATE)
        return self._read(self.path)

    def make_next(self) -> Secret:
        """The key to move to; a new one if there is none."""
        if not self.next.exists():
            write_atomically(self.next, os.urandom(MASTER_KEY_SIZE), mode=PRIVATE)
        return self._read(self.next)

    def next_fits(self, store_id: str, check: str) -> bool:
        """Whether the next key is there, and the store is under it."""
        if not self.next.exists():
            return False
        with self._read(self.next) as key:
            return hmac.compare_digest(StoreCipher(key, store_id).check(), check)

    def use_next(self) -> None:
        """Put the next key in this one's place."""
        try:
            self.next.replace(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            raise explain_os_error(error, self.next, "rename") from error

    def cipher(self, store_id: str, check: str) -> StoreCipher:
        """The cipher of a store, by the key here that fits it.

        :param check: the store's check value.
        :raises WrongMasterKeyError: no key here fits. :raises KeyFileError: there is none, or others can read it.
        """
        for key in self._candidates():
            with key:
                cipher = StoreCipher(key, store_id)
            if hmac.compare_digest(cipher.check(), check):
                return cipher
        raise WrongMasterKeyError(
            f"the master key in {self.path} is not the one that the store is encrypted under",
            hint="Put the right master key there. If it is lost, so are the keys in the store.",
        )

    def _candidates(self) -> Iterator[Secret]:
        if self.path.exists() or not self.next.exists():
            yield self._read(self.path)
        if self.next.exists():
            yield self._read(self.next)

    def _read(self, path: Path) -> Secret:
        if not path.exists():
            raise KeyFileError(
                f"there is no master key {path}, and the store is encrypted under it",
                hint="Restore it from a backup. Without it the keys in the store are lost: if they may be, remove the "
                f"store (broker.db) and what is left of {path.name}; `sealserve broker store init` makes both anew.",
            )
        return read_secret_file(path, size=MASTER_KEY_SIZE, insecure_allow_readable_by_others=self.guarded)
