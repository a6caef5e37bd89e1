"""Wrap keys: what is made, what is accepted, and what is never shown."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest
from sealing_files import KEY, sealed

from sealserve.errors import KeyFileError
from sealserve.sealing import EncryptedReader, generate_wrap_key, read_wrap_key
from sealserve.sealing.keys import metadata_key
from sealserve.secret import Secret


def test_a_new_key_has_16_bytes_and_is_its_owners_alone(tmp_path: Path) -> None:
    generate_wrap_key(tmp_path / "a")
    generate_wrap_key(tmp_path / "b")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "a").read_bytes()) == 16
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_a_key_is_never_replaced_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    with pytest.raises(KeyFileError, match="exists already"):
        generate_wrap_key(path)
    assert path.read_bytes() == KEY
    generate_wrap_key(path, replace=True)
    assert path.read_bytes() != KEY


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(KeyFileError):
        generate_wrap_key(tmp_path / "key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_read_is_refused_unless_told(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="can be read by others"):
        read_wrap_key(path)
    assert read_wrap_key(path, insecure_allow_readable_key=True) == Secret(KEY)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_key_file_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes(length))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="exactly 16"):
        read_wrap_key(path)


def test_a_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError) as caught:
        read_wrap_key(tmp_path / "key")
    assert "sealserve key generate" in (caught.value.hint or "")


def test_the_metadata_key_follows_the_published_derivation() -> None:
    """NIST SP 800-108 in counter mode with AES-CMAC, written out from the primitive."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    def cmac(message: bytes) -> bytes:
        encrypt = Cipher(algorithms.AES128(KEY), modes.ECB()).encryptor().update  # noqa: S305 - CMAC's own building block
        double = lambda v: ((v << 1) & (1 << 128) - 1) ^ (0x87 if v >> 127 else 0)  # noqa: E731
        subkey = double(int.from_bytes(encrypt(bytes(16)), "big"))
        blocks = [message[i : i + 16] for i in range(0, len(message), 16)]
        last = blocks.pop()
        if len(last) < 16:
            last, subkey = last + b"\x80" + bytes(15 - len(last)), double(subkey)
        state = bytes(16)
        for block in [*blocks, (int.from_bytes(last, "big") ^ subkey).to_bytes(16, "big")]:
            state = encrypt(bytes(a ^ b for a, b in zip(state, block, strict=True)))
        return state

    nonce = bytes(range(32, 64))
    message = (1).to_bytes(4, "little") + b"SGX-PROTECTED-FS-METADATA-KEY".ljust(64, b"\0") + nonce
    assert metadata_key(Secret(KEY), nonce) == cmac(message + (0x80).to_bytes(4, "little"))


def test_no_refusal_shows_the_key() -> None:
    wrong = bytes(range(100, 116))
    import io

    try:
        EncryptedReader(io.BytesIO(sealed(b"x")), Secret(wrong))
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not show the key
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(pickle.dumps(error))
    assert wrong.hex() not in shown
    assert repr(wrong)[2:-1] not in shown
