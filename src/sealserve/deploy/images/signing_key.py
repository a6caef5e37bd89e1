"""The key that signs enclaves: RSA with 3072 bits and public exponent 3, which SGX demands."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sealserve.errors import KeyFileError
from sealserve.files import PRIVATE, read_secret_file, write_atomically

_BITS, _EXPONENT = 3072, 3


def generate_signing_key(path: Path) -> None:
    """Write a new signing key, PKCS #1 in PEM as Gramine's tool does, readable by its owner alone.

    :raises KeyFileError: there is a file already. Whoever loses a signing key loses the MRSIGNER that policies name.
    """
    if path.exists() or path.is_symlink():
        raise KeyFileError(f"{path} is there already", hint="Leave --new-key out to sign with it.")
    key = rsa.generate_private_key(public_exponent=_EXPONENT, key_size=_BITS)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    write_atomically(path, pem, mode=PRIVATE)


def check_signing_key(path: Path) -> None:
    """Make sure that SGX takes the key, before anything is built with it.

    :raises KeyFileError: it is missing, readable by others, or another kind of key.
    """
    if not path.exists():
        raise KeyFileError(f"there is no signing key {path}", hint="`sealserve image sign --new-key` makes it first.")
    with read_secret_file(path) as secret:
        try:
            key = serialization.load_pem_private_key(secret.reveal(), password=None)
        except (ValueError, TypeError) as error:
            raise KeyFileError(f"{path} is not a private key in PEM without a password") from error
    if not isinstance(key, rsa.RSAPrivateKey) or (key.key_size, key.public_key().public_numbers().e) != (
        _BITS,
        _EXPONENT,
    ):
        raise KeyFileError(
            f"{path} is no RSA key with {_BITS} bits and public exponent {_EXPONENT}, which SGX demands",
            hint="`sealserve image sign --new-key` makes one.",
        )
