from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
from broker_parties import Place, make_place, new_identity

from sealserve.ratls import TlsIdentity


@pytest.fixture(scope="session")
def master_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("broker"))


@pytest.fixture
def place(master_place: Place, tmp_path: Path) -> Place:
    """A place of one's own, to change."""
    shutil.copytree(master_place.directory, tmp_path, dirs_exist_ok=True)
    place = Place(tmp_path, master_place.authority, copy.deepcopy(master_place.document))
    place.put_policy()  # its collateral is in another directory now
    return place


@pytest.fixture(scope="session")
def identity(master_place: Place) -> TlsIdentity:
    return new_identity(master_place)
