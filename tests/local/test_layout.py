"""The working directory is ours before anything in it is written or deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealserve.errors import InputError
from sealserve.local.layout import Layout


def test_a_party_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "platform").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="is a link"):
        Layout(tmp_path / "state").make()
    assert not list((tmp_path / "victim").glob("sealed*"))


def test_a_party_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner").chmod(0o777)
    with pytest.raises(InputError, match="written by others"):
        Layout(tmp_path).make()
