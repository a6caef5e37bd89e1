"""Which directories are sealed models, never to be served as they lie."""

from __future__ import annotations

import shutil

import pytest
from serving_models import affine_model

from sealserve.models.writing import write_saved_model
from sealserve.sealing import EncryptedReader, generate_wrap_key, read_wrap_key, seal_model
from sealserve.sealing.listing import INCOMPLETE_NAME, LIST_NAME, SEALS_NAME
from sealserve.serving.process.configuration import is_sealed


@pytest.fixture
def sealed(tmp_path):
    """``plain``, ``sealed``, and ``seen``: what Gramine shows of ``sealed`` on an encrypted mount."""
    write_saved_model(tmp_path / "plain", 1, affine_model(0.5, 2.0))
    generate_wrap_key(tmp_path / "key")
    with read_wrap_key(tmp_path / "key") as key:
        seal_model(tmp_path / "plain", tmp_path / "sealed", key, mount="/models/half")
        (tmp_path / "seen" / "1").mkdir(parents=True)
        for name in ("1/saved_model.pb", LIST_NAME, SEALS_NAME):
            with (tmp_path / "sealed" / name).open("rb") as file, EncryptedReader(file, key) as reader:
                (tmp_path / "seen" / name).write_bytes(reader.read())
    return tmp_path


def test_a_sealed_model_is_one_while_its_list_is(sealed):
    assert is_sealed(sealed / "sealed")
    assert not is_sealed(sealed / "plain")
    assert not is_sealed(sealed / "missing")


def test_what_gramine_shows_of_an_encrypted_mount_is_a_model_in_the_clear(sealed):
    assert not is_sealed(sealed / "seen")


@pytest.mark.parametrize("name", [LIST_NAME, SEALS_NAME])
def test_one_that_lost_a_part_is_sealed_still(sealed, name):
    (sealed / "sealed" / name).unlink()
    assert is_sealed(sealed / "sealed")


def test_one_that_is_being_sealed_or_is_damaged_is_sealed(sealed):
    (sealed / "seen" / INCOMPLETE_NAME).touch()
    assert is_sealed(sealed / "seen")
    with (sealed / "sealed" / LIST_NAME).open("r+b") as file:
        file.write(bytes(8))
    assert is_sealed(sealed / "sealed")
    shutil.copy(sealed / "sealed" / SEALS_NAME, sealed / "sealed" / LIST_NAME)
    assert is_sealed(sealed / "sealed")
