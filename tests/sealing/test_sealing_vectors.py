"""Files that Gramine's tools made are read; what we write has the structure that Gramine's reader expects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from sealing_files import BORDERS, DATA, GROUP, KEY, InvalidTag, ReferenceFile, golden, pattern, sealed

from sealserve.sealing import EncryptedReader, FormatVersion
from sealserve.sealing.errors import SealedPathError
from sealserve.secret import Secret

VECTORS = sorted(path.name for path in DATA.glob("*.pf"))


@pytest.fixture
def vector_key() -> Secret:
    return Secret((DATA / "wrap_key").read_bytes())


@pytest.mark.parametrize("name", VECTORS)
def test_a_file_of_gramine_decrypts(name: str, vector_key: Secret) -> None:
    version, _, rest = name.removesuffix(".pf").partition("_")
    size = int(rest) if rest.isdigit() else 5000
    with EncryptedReader.open(DATA / name, vector_key) as reader:
        assert reader.read() == golden(size)
        assert reader.size == size
        assert reader.version == int(version[1])


def test_the_path_that_gramine_normalised_is_accepted_in_every_spelling(vector_key: Secret) -> None:
    for spelling in ("pf/v2_normpath.pf", "./pf/../pf//v2_normpath.pf"):
        EncryptedReader.open(DATA / "v2_normpath.pf", vector_key, expected_path=spelling).close()


def test_a_path_that_an_old_tool_embedded_as_typed_is_refused_as_gramine_does(vector_key: Secret) -> None:
    with pytest.raises(SealedPathError):
        EncryptedReader.open(DATA / "v1_unnormpath.pf", vector_key, expected_path="./pf/../pf//v1_unnormpath.pf")
    with EncryptedReader.open(DATA / "v1_unnormpath.pf", vector_key) as reader:
        assert reader.path == "./pf/../pf//v1_unnormpath.pf"


def test_every_shared_vector_decrypts_to_its_digest(shared_vectors: Path) -> None:
    folder = shared_vectors / "encrypted-files"
    index = json.loads((folder / "index.json").read_text())
    key = Secret((folder / index["wrap_key_file"]).read_bytes())
    assert index["vectors"]
    for vector in index["vectors"]:
        with EncryptedReader.open(folder / vector["file"], key) as reader:
            assert hashlib.sha256(reader.read()).hexdigest() == vector["plaintext_sha256"], vector["file"]
            assert reader.size == vector["plaintext_size"]
            assert reader.path == vector["embedded_path"]
            assert f"{reader.version}.0" == vector["format"]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [*BORDERS, 3072 + GROUP, 3072 + GROUP + 1, 3072 + 2 * GROUP + 5000])
def test_what_is_written_is_read_by_the_letter_of_the_format(size: int, version: FormatVersion) -> None:
    plain = pattern(size)
    data = sealed(plain, path="/models/./x//file", version=version)
    file = ReferenceFile(data)
    assert file.version == version
    assert data[9] == 0, "minor version"
    assert version == 1 or data[58] == 0, "feature flags"
    assert file.size == size
    assert file.path_field == b"/models/x/file".ljust(772, b"\0")
    assert file.plaintext() == plain
    assert not any(file.padding)
    assert size > 3072 or file.root == bytes(32)


def test_three_levels_of_the_hash_tree_are_written_by_the_letter_of_the_format() -> None:
    plain = pattern(3072 + 34 * GROUP + 1)
    file = ReferenceFile(sealed(plain))
    assert hashlib.sha256(file.plaintext()).digest() == hashlib.sha256(plain).digest()
    assert len(file.tables) == 35
    assert any(file.tables[1][3072:3104]), "node 33 hangs under node 1"


def test_no_key_encrypts_twice() -> None:
    plain = pattern(3072 + 2 * GROUP + 1)
    keys: list[bytes] = []
    for _ in range(2):
        file = ReferenceFile(sealed(plain))
        file.plaintext()
        keys += file.keys[1:]
    assert len(keys) == 2 * (193 + 3)
    assert len(set(keys)) == len(keys)


def test_entries_of_nodes_that_are_not_there_are_zeros_as_gramine_leaves_them() -> None:
    file = ReferenceFile(sealed(pattern(3072 + 10 * 4096)))
    file.plaintext()
    assert any(file.tables[0][9 * 32 : 10 * 32])
    assert not any(file.tables[0][10 * 32 :])


def test_the_key_derivation_is_the_one_of_gramine(vector_key: Secret) -> None:
    ReferenceFile((DATA / "v1_0.pf").read_bytes(), bytes(vector_key.reveal()))
    with pytest.raises(InvalidTag):
        ReferenceFile((DATA / "v1_0.pf").read_bytes(), KEY)
