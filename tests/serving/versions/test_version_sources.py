"""Where versions lie: plain and sealed directories."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sealserve.errors import InputError, ModelError, SealError
from sealserve.sealing import seal_model
from sealserve.secret import Secret
from sealserve.serving.model_files import PREFIX, path_of
from sealserve.serving.versions import PlainSource, SealedSource


@pytest.fixture
def plain(tmp_path):
    base = tmp_path / "model"
    for name in ("1", "00000123", "7", "notes", ".8.partial", "-9", "1e3", "٣", "99999999999999999999"):
        (base / name / "variables").mkdir(parents=True)
        (base / name / "saved_model.pb").write_bytes(name.encode())
        (base / name / "variables" / "variables.index").write_bytes(b"index")
    (base / "5").write_bytes(b"a file")
    return base


@pytest.fixture
def wrap_key():
    return Secret(os.urandom(16))


@pytest.fixture
def sealed(plain, tmp_path, wrap_key):
    for name in ("-9", "٣", "5"):
        path = plain / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    seal_model(plain, tmp_path / "sealed", wrap_key, mount="/models/m", processes=1)
    return tmp_path / "sealed"


def contents(files):
    return {name: file.read() for name, file in files.items()}


def test_directories_that_are_named_by_numbers_are_versions(plain):
    source = PlainSource(plain)
    assert source.versions() == [1, 7, 123]
    with source.open(123) as files:
        assert contents(files) == {"saved_model.pb": b"00000123", "variables/variables.index": b"index"}
    (plain / "000").symlink_to(plain / "7")
    assert source.versions() == [0, 1, 7, 123]


def test_a_directory_that_is_missing_or_vanishes_is_told(plain, tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        PlainSource(tmp_path / "nowhere").versions()
    source = PlainSource(plain)
    with pytest.raises(ModelError, match="no version 4"), source.open(4):
        pass
    with source.open(7) as files:
        shutil.rmtree(plain / "7")
        assert files["saved_model.pb"].read() == b"7"  # what is open stays
    with pytest.raises(ModelError, match="no version 7"), source.open(7):
        pass
    (plain / "7").mkdir()
    with pytest.raises(ModelError, match="no version 7, or no files in it"), source.open(7):
        pass


def test_an_error_of_whoever_reads_the_files_stays_what_it_is(plain):
    with pytest.raises(OSError, match="mine"), PlainSource(plain).open(7):
        raise OSError("mine")


@pytest.mark.parametrize("mount", [None, "/models/m"])
def test_a_sealed_version_is_decrypted_into_memory(sealed, wrap_key, mount):
    source = SealedSource(sealed, wrap_key, mount)
    assert source.versions() == [1, 7, 123]
    with source.open(123) as files:
        assert contents(files) == {"saved_model.pb": b"00000123", "variables/variables.index": b"index"}
        for file in files.values():
            assert PREFIX in str(Path(path_of(file)).readlink())
        kept = list(files.values())
    assert all(file.closed for file in kept)
    with pytest.raises(ModelError, match="no version 4"), source.open(4):
        pass


def test_a_sealed_version_that_was_tampered_with_is_not_opened(sealed, wrap_key):
    source = SealedSource(sealed, wrap_key)
    assert source.versions() == [1, 7, 123]
    victim = sealed / "7" / "saved_model.pb"
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    with pytest.raises(SealError), source.open(7):
        pass


def test_another_key_or_mount_opens_nothing(sealed, wrap_key):
    for source in (SealedSource(sealed, Secret(bytes(16))), SealedSource(sealed, wrap_key, "/models/other")):
        with pytest.raises(SealError):
            source.versions()
        with pytest.raises(SealError), source.open(1):
            pass


def test_a_model_that_is_sealed_anew_is_noticed(plain, sealed, wrap_key):
    source = SealedSource(sealed, wrap_key)
    assert source.versions() == [1, 7, 123]
    shutil.copytree(plain / "7", plain / "8")
    shutil.rmtree(plain / "1")
    seal_model(plain, sealed, wrap_key, mount="/models/m", replace=True, processes=1)
    assert source.versions() == [7, 8, 123]
    with source.open(8) as files:
        assert files["saved_model.pb"].read() == b"7"


def test_a_model_that_is_being_sealed_is_unreadable_until_it_is_whole(sealed, wrap_key):
    source = SealedSource(sealed, wrap_key)
    listed = next(path for path in sealed.iterdir() if path.is_file())
    data = listed.read_bytes()
    listed.unlink()
    with pytest.raises(SealError):
        source.versions()
    listed.write_bytes(data)
    assert source.versions() == [1, 7, 123]


def test_sources_of_one_place_are_equal_whatever_their_key(sealed, wrap_key, plain):
    assert SealedSource(sealed, wrap_key) == SealedSource(sealed, Secret(bytes(16)))
    assert SealedSource(sealed, wrap_key) != SealedSource(plain, wrap_key)
    assert PlainSource(plain) == PlainSource(plain) != SealedSource(plain, wrap_key)
    assert "key" not in repr(SealedSource(sealed, wrap_key))
