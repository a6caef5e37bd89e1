"""The reader and the writer as file objects; round trips of arbitrary content, sizes and pieces."""

from __future__ import annotations

import gzip
import io
import itertools
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealing_files import BORDERS, GROUP, KEY, opened, pattern, sealed

from sealserve.errors import SealError
from sealserve.sealing import EncryptedReader, EncryptedWriter, FormatVersion, decrypt_file, encrypt_file
from sealserve.sealing.errors import EmbeddedPathError, NotSealedError
from sealserve.secret import Secret

SIZES = [*BORDERS, 3072 + GROUP - 1, 3072 + GROUP, 3072 + GROUP + 1, 3072 + 2 * GROUP, 3072 + 33 * GROUP + 1]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_read_back(size: int, version: FormatVersion) -> None:
    plain = pattern(size)
    assert opened(sealed(plain, version=version), path="/models/x") == plain


@given(
    content=st.binary(max_size=20_000),
    repeat=st.integers(1, 60),
    cuts=st.lists(st.integers(1, 500_000), max_size=8),
    version=st.sampled_from([1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_length_make_the_same_file(
    content: bytes, repeat: int, cuts: list[int], version: FormatVersion
) -> None:
    plain = content * repeat
    file = io.BytesIO()
    with EncryptedWriter(file, Secret(KEY), "a/b", version=version) as writer:
        start = 0
        for length in itertools.chain(cuts, [len(plain)]):
            assert writer.write(plain[start : start + length]) == len(plain[start : start + length])
            start += length
        assert writer.size == len(plain)
    assert opened(file.getvalue(), path="a/b") == plain


@given(st.lists(st.tuples(st.integers(0, 3072 + 3 * GROUP), st.integers(0, 2 * GROUP)), max_size=12))
@settings(max_examples=30, deadline=None)
def test_reading_anywhere_gives_what_is_there(places: list[tuple[int, int]]) -> None:
    reader = EncryptedReader(io.BytesIO(_LARGE), Secret(KEY))
    for position, length in places:
        reader.seek(position)
        assert reader.read(length) == _PLAIN[position : position + length]
        assert reader.tell() == position + len(_PLAIN[position : position + length])


_PLAIN = pattern(3072 + 2 * GROUP + 12_345)
_LARGE = sealed(_PLAIN)


def test_a_reader_is_a_seekable_binary_file() -> None:
    reader = EncryptedReader(io.BytesIO(_LARGE), Secret(KEY))
    assert (reader.readable(), reader.seekable(), reader.writable()) == (True, True, False)
    assert reader.seek(-5, io.SEEK_END) == len(_PLAIN) - 5
    assert reader.read(100) == _PLAIN[-5:]
    assert reader.read(1) == b""
    assert reader.seek(10) == 10
    assert reader.seek(5, io.SEEK_CUR) == 15
    assert reader.read(3) == _PLAIN[15:18]
    reader.seek(len(_PLAIN) + 1000)
    assert reader.read() == b""
    with pytest.raises(ValueError, match="negative"):
        reader.seek(-1)
    with pytest.raises(ValueError, match="whence"):
        reader.seek(0, 9)
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read()


def test_a_reader_is_given_to_anything_that_takes_a_binary_file() -> None:
    buffered = io.BufferedReader(EncryptedReader(io.BytesIO(_LARGE), Secret(KEY)), 8192)
    assert b"".join(iter(lambda: buffered.read(1000), b"")) == _PLAIN
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("weights", _PLAIN)
    with zipfile.ZipFile(EncryptedReader(io.BytesIO(sealed(archive.getvalue())), Secret(KEY))) as files:
        assert files.read("weights") == _PLAIN


def test_a_huge_read_asks_for_no_huge_buffer() -> None:
    assert EncryptedReader(io.BytesIO(sealed(b"abc")), Secret(KEY)).read(1 << 60) == b"abc"


def test_the_file_below_keeps_its_other_users(tmp_path: Path) -> None:
    """A decompressing file has a descriptor too, but other bytes: only its methods may be used."""
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(_LARGE))
    with gzip.open(path) as file:
        assert EncryptedReader(file, Secret(KEY)).read(5000) == _PLAIN[:5000]  # type: ignore[arg-type]
    with tempfile.TemporaryFile() as file:
        file.write(_LARGE)
        reader = EncryptedReader(file, Secret(KEY))  # what Python still buffers must be on disk first
        assert reader.read() == _PLAIN
        reader.close()
        assert not file.closed


def test_a_raw_file_that_writes_less_than_asked_is_written_in_full() -> None:
    class Reluctant(io.BytesIO):
        def write(self, data: object) -> int:
            return super().write(memoryview(data)[:1000])  # type: ignore[arg-type]

    file = Reluctant()
    with EncryptedWriter(file, Secret(KEY), "/models/x") as writer:
        writer.write(_PLAIN)
    assert opened(file.getvalue()) == _PLAIN


def test_old_content_of_the_target_is_cut_off() -> None:
    file = io.BytesIO(sealed(pattern(500_000)))
    with EncryptedWriter(file, Secret(KEY), "/models/x") as writer:
        writer.write(b"short")
    assert len(file.getvalue()) == 4096
    assert opened(file.getvalue()) == b"short"


def test_an_aborted_writer_leaves_nothing_that_opens() -> None:
    file = io.BytesIO()

    def fail() -> None:
        with EncryptedWriter(file, Secret(KEY), "/x") as writer:
            writer.write(pattern(500_000))
            raise RuntimeError("the stream broke off")

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(NotSealedError):
        opened(file.getvalue())


def test_a_forgotten_writer_leaves_nothing_that_opens() -> None:
    file = io.BytesIO()
    writer = EncryptedWriter(file, Secret(KEY), "/x")
    writer.write(pattern(500_000))
    del writer
    with pytest.raises(SealError):
        opened(file.getvalue())


def test_closing_twice_is_fine_and_writing_afterwards_is_not() -> None:
    file = io.BytesIO()
    writer = EncryptedWriter(file, Secret(KEY), "/models/x")
    writer.write(b"x")
    writer.close()
    writer.close()
    assert opened(file.getvalue()) == b"x"
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"y")


def test_nothing_is_written_when_the_path_cannot_be_embedded() -> None:
    file = io.BytesIO(b"precious")
    with pytest.raises(EmbeddedPathError):
        EncryptedWriter(file, Secret(KEY), "x" * 772)
    assert file.getvalue() == b"precious"


def test_the_writer_parks_no_key_in_the_clear() -> None:
    """Until it is closed, the hash tree of the file lies in it encrypted: two runs share no node."""
    plain = bytes(3072 + 2 * GROUP)
    files = [io.BytesIO(), io.BytesIO()]
    writers = [EncryptedWriter(file, Secret(KEY), "/x") for file in files]
    for writer in writers:
        writer.write(plain)
    nodes = [{file.getvalue()[i : i + 3072] for i in range(4096, len(file.getvalue()), 4096)} for file in files]
    assert nodes[0]
    assert not nodes[0] & nodes[1]
    for writer in writers:
        writer.close()
    parked = nodes[0]
    final = {files[0].getvalue()[i : i + 3072] for i in range(4096, len(files[0].getvalue()), 4096)}
    assert len(parked - final) == 2, "both MHT nodes got their final form"


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 3073, 3072 + 24 * GROUP, 3072 + 40 * GROUP + 99])
def test_whole_files_on_any_number_of_processes(size: int, processes: int, tmp_path: Path) -> None:
    plain = pattern(size)
    (tmp_path / "plain").write_bytes(plain)
    seen: list[tuple[int, int]] = []
    with (tmp_path / "plain").open("rb") as source, (tmp_path / "sealed").open("w+b") as target:
        done = encrypt_file(
            source,
            target,
            Secret(KEY),
            "/x",
            processes=processes,
            digest=True,
            progress=lambda part, total: seen.append((part, total)),
        )
    assert seen[-1] == (size, size)
    assert [part for part, _ in seen] == sorted(part for part, _ in seen)
    for digest in (False, True):
        with (tmp_path / "sealed").open("rb") as source, (tmp_path / "out").open("w+b") as target:
            target.write(b"old content" * 1000)
            again = decrypt_file(source, target, Secret(KEY), expected_path="/x", processes=processes, digest=digest)
        assert (tmp_path / "out").read_bytes() == plain
        assert again == (size, done[1] if digest else b"")


def test_a_stream_without_positions_is_encrypted_to_its_end() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            super().__init__()
            self.rest = io.BytesIO(_PLAIN)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            return self.rest.readinto(memoryview(buffer)[:777])

    target = io.BytesIO()
    size, digest = encrypt_file(Pipe(), target, Secret(KEY), "/models/x", digest=True)  # type: ignore[arg-type]
    assert size == len(_PLAIN)
    assert len(digest) == 32
    assert opened(target.getvalue()) == _PLAIN


def test_a_flipped_bit_stops_all_processes(tmp_path: Path) -> None:
    data = bytearray(sealed(pattern(3072 + 40 * GROUP)))
    data[-1] ^= 1
    (tmp_path / "sealed").write_bytes(data)
    with (
        (tmp_path / "sealed").open("rb") as source,
        (tmp_path / "out").open("w+b") as target,
        pytest.raises(SealError, match="sealed: "),
    ):
        decrypt_file(source, target, Secret(KEY), processes=2)


def test_a_target_that_is_open_for_appending_is_refused(tmp_path: Path) -> None:
    """The system would write every piece at its end, whatever its position."""
    with (tmp_path / "out").open("a+b") as target, pytest.raises(ValueError, match="appending"):
        EncryptedWriter(target, Secret(KEY), "/x")
