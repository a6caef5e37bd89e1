"""Whoever changes an encrypted file, without the wrap key or with it, gets a typed error, never other plaintext."""

from __future__ import annotations

import io
import random
import resource
import time
from pathlib import Path

import pytest
from sealing_files import GROUP, KEY, opened, pattern, sealed

from sealserve.errors import KeyFileError, SealError
from sealserve.sealing import EncryptedReader, FormatVersion, layout
from sealserve.sealing.errors import (
    NotSealedError,
    RecoveryNeededError,
    SealBrokenError,
    SealedLengthError,
    SealedPathError,
    UnsupportedFormatError,
)
from sealserve.sealing.metadata import Metadata, make_metadata
from sealserve.secret import Secret


def unauthenticated(version: int) -> set[int]:
    """Bytes of the metadata node that nothing authenticates."""
    return {9} | ({58} if version == 2 else set()) | set(range(58 + (version == 2) + 3884, 4096))


@pytest.mark.parametrize("version", [1, 2])
def test_every_bit_of_a_one_node_file_is_authenticated_or_known_not_to_be(version: FormatVersion) -> None:
    plain = pattern(2000)
    good = sealed(plain, version=version)
    loose = unauthenticated(version)
    for position in range(4096):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            if position in loose and not (position == 58 and bit == 0):
                assert opened(bytes(bad)) == plain, (position, bit)
            else:
                with pytest.raises(SealError):
                    opened(bytes(bad))


def test_every_byte_of_the_further_nodes_is_authenticated() -> None:
    plain = pattern(3072 + 4096 + 100)
    good = sealed(plain)
    assert len(good) == 4 * 4096
    generator = random.Random(1)
    for position in range(4096, len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << generator.randrange(8)
        with pytest.raises(SealBrokenError):
            opened(bytes(bad))


def test_sampled_bits_of_a_large_file_are_authenticated() -> None:
    good = bytearray(sealed(pattern(3072 + 34 * GROUP)))
    generator = random.Random(2)
    for _ in range(60):
        position, bit = generator.randrange(4096, len(good)), 1 << generator.randrange(8)
        good[position] ^= bit
        with pytest.raises(SealBrokenError):
            opened(bytes(good))
        good[position] ^= bit
    assert opened(bytes(good))


def test_the_pending_write_flag_asks_for_recovery() -> None:
    bad = bytearray(sealed(b"x"))
    bad[58] |= 1
    with pytest.raises(RecoveryNeededError):
        opened(bytes(bad))


def test_a_version_that_is_not_known_is_named() -> None:
    bad = bytearray(sealed(b"x"))
    bad[8] = 3
    with pytest.raises(UnsupportedFormatError, match="version 3"):
        opened(bytes(bad))


def test_a_file_of_another_format_is_named_as_such() -> None:
    for data in (b"", b"GRAFS", b"PK\3\4" * 2000):
        with pytest.raises(NotSealedError):
            opened(data)


@pytest.mark.parametrize("version", [1, 2])
def test_claiming_the_other_version_is_refused(version: FormatVersion) -> None:
    bad = bytearray(sealed(b"x" * 5000, version=version))
    bad[8] = 3 - version
    # Read as version 2, the first byte of ciphertext of a version 1 file stands where the recovery flag is.
    with pytest.raises((SealBrokenError, RecoveryNeededError)):
        opened(bytes(bad))


def _swap(data: bytes, first: int, second: int, other: bytes | None = None) -> bytes:
    """``data`` with a node replaced by another one, of itself (which is then replaced too) or of ``other``."""
    nodes = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    if other is None:
        nodes[first], nodes[second] = nodes[second], nodes[first]
    else:
        nodes[first] = other[second * 4096 : (second + 1) * 4096]
    return b"".join(nodes)


def test_swapping_any_two_nodes_is_refused() -> None:
    good = sealed(pattern(3072 + 5 * 4096))
    count = len(good) // 4096
    for first in range(count):
        for second in range(first + 1, count):
            with pytest.raises(SealError):
                opened(_swap(good, first, second))


@pytest.mark.parametrize("pair", [(1, 98), (98, 195), (2, 99), (99, 196), (98, 99)])
def test_swapping_nodes_between_groups_is_refused(pair: tuple[int, int]) -> None:
    good = sealed(pattern(3072 + 3 * GROUP))
    with pytest.raises(SealBrokenError):
        opened(_swap(good, *pair))


def test_a_node_of_another_file_with_the_same_plaintext_and_key_is_refused() -> None:
    plain = pattern(3072 + 5 * 4096)
    good, other = sealed(plain), sealed(plain)
    for node in range(1, len(good) // 4096):
        with pytest.raises(SealBrokenError):
            opened(_swap(good, node, node, other))
    # Node 0 alone is an older file's header over newer nodes.
    with pytest.raises(SealBrokenError):
        opened(_swap(good, 0, 0, other))


@pytest.mark.parametrize("size", [100, 3072 + 5 * 4096, 3072 + GROUP + 4096])
def test_cutting_off_at_every_node_border_and_inside_is_refused(size: int) -> None:
    good = sealed(pattern(size))
    for end in [*range(0, len(good), 4096), *range(17, len(good), 4096), len(good) - 1]:
        with pytest.raises(SealError):
            EncryptedReader(io.BytesIO(good[:end]), Secret(KEY))


@pytest.mark.parametrize("extra", [1, 4095, 4096, 97 * 4096])
def test_appended_bytes_are_refused_unless_allowed(extra: int) -> None:
    plain = pattern(10_000)
    longer = sealed(plain) + bytes(extra)
    with pytest.raises(SealedLengthError, match="are authenticated"):
        opened(longer)
    assert opened(longer, allow_trailing=True) == plain


def test_a_wrong_key_is_refused() -> None:
    good = sealed(b"secret")
    with pytest.raises(SealBrokenError, match="another wrap key"):
        opened(good, key=KEY[::-1])


@pytest.mark.parametrize("length", [1, 15, 17, 32])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(KeyFileError):
        opened(sealed(b"x"), key=bytes(length))


@pytest.mark.parametrize("path", ["/models/y", "models/x", "/models/x/y", "", "/models/X"])
def test_another_path_is_refused(path: str) -> None:
    with pytest.raises(SealedPathError):
        opened(sealed(b"x", path="/models/x"), path=path)


def _with_size(size: int, nodes: int = 3) -> bytes:
    """A file whose authentic header, made by somebody who has the key, claims ``size``."""
    header = make_metadata(Metadata(b"/x", size % (1 << 64), bytes(16), bytes(16), bytes(3072)), Secret(KEY), 2)
    return header + bytes((nodes - 1) * 4096)


@pytest.mark.parametrize("size", [5 * 4096, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_an_absurd_size_in_the_header_costs_neither_time_nor_memory(size: int) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(SealedLengthError):
        opened(_with_size(size))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096, "kB"
    assert time.process_time() - start < 1


def test_an_absurd_size_over_a_sparse_file_of_that_length_fails_at_its_first_node() -> None:
    """The length check cannot help here: a sparse file costs its maker nothing."""
    size = 1 << 50

    class Sparse(io.RawIOBase):
        reads = 0

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = layout.sealed_size(size) + offset if whence == 2 else offset
            return self.at

        def read(self, length: int = -1) -> bytes:
            Sparse.reads += 1
            assert 0 <= length <= GROUP
            header = _with_size(size)[:4096]
            return header[self.at : self.at + length] if self.at < 4096 else bytes(length)

    reader = EncryptedReader(Sparse(), Secret(KEY))  # type: ignore[arg-type]
    with pytest.raises(SealBrokenError):
        reader.readinto(bytearray(10_000))
    reader.seek(-1, io.SEEK_END)
    with pytest.raises(SealBrokenError):
        reader.read(1)
    assert Sparse.reads < 10


def test_a_path_field_without_a_nul_is_read_as_far_as_it_goes() -> None:
    header = make_metadata(Metadata(b"a" * 772, 0, bytes(16), bytes(16), bytes(3072)), Secret(KEY), 2)
    assert EncryptedReader(io.BytesIO(header), Secret(KEY)).path == "a" * 772


def test_a_path_that_is_not_utf8_is_shown_and_matches_nothing() -> None:
    header = make_metadata(Metadata(b"/\xff", 0, bytes(16), bytes(16), bytes(3072)), Secret(KEY), 2)
    assert EncryptedReader(io.BytesIO(header), Secret(KEY)).path == "/\udcff"
    with pytest.raises(SealedPathError):
        EncryptedReader(io.BytesIO(header), Secret(KEY), expected_path="/ÿ")


def test_stale_plaintext_behind_the_size_is_not_given_out() -> None:
    """As a file that Gramine truncated has it, in its header and in its last node."""
    header = make_metadata(Metadata(b"/x", 10, bytes(16), bytes(16), b"0123456789STALE".ljust(3072)), Secret(KEY), 1)
    assert opened(header) == b"0123456789"


def test_nothing_that_was_not_authenticated_reaches_the_buffer() -> None:
    plain = pattern(3072 + 20 * 4096)
    bad = bytearray(sealed(plain))
    bad[10 * 4096] ^= 1  # node 10 holds data node 8
    reader = EncryptedReader(io.BytesIO(bytes(bad)), Secret(KEY))
    buffer = bytearray(b"\xaa" * len(plain))
    with pytest.raises(SealBrokenError):
        reader.readinto(buffer)
    assert buffer[3072:] == bytes(20 * 4096)
    # What is intact can still be read.
    reader.seek(3072)
    assert reader.read(8 * 4096) == plain[3072 : 3072 + 8 * 4096]


def test_a_file_that_is_cut_off_while_it_is_read_is_refused() -> None:
    file = io.BytesIO(sealed(pattern(3072 + 2 * GROUP)))
    reader = EncryptedReader(file, Secret(KEY))
    assert reader.read(5000) == pattern(3072 + 2 * GROUP)[:5000]
    file.truncate(50 * 4096)
    with pytest.raises(SealedLengthError, match="cut off"):
        reader.read()


def test_a_refusal_says_which_file_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(sealed(b"x"))
    with pytest.raises(SealBrokenError, match="weights: "):
        EncryptedReader.open(path, Secret(bytes(16)))
