"""Nothing is written or deleted in a directory that sealserve did not make."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sealserve.errors import InputError
from sealserve.local.ownership import MARKER, ForeignDirectoryError, claim, is_claimed


def test_a_missing_directory_is_made_private_and_can_be_claimed_again(tmp_path: Path) -> None:
    root = tmp_path / "a" / "state"
    first = claim(root, "cluster")
    assert first.new
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert not claim(root, "cluster").new
    assert is_claimed(root)


def test_an_empty_directory_of_the_users_is_taken(tmp_path: Path) -> None:
    assert claim(tmp_path, "cluster").new


@pytest.mark.parametrize("name", ["platform/tmp/x", "owner/wrap.key", ".git/config", "lock"])
def test_a_directory_with_anything_in_it_is_refused_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for action in (lambda: claim(tmp_path, "cluster"), lambda: is_claimed(tmp_path)):
        with pytest.raises(ForeignDirectoryError, match="did not make it"):
            action()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"something else\n", b"cluster and more\n"])
def test_a_file_that_only_has_the_markers_name_is_no_marker(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MARKER).write_bytes(content)
    with pytest.raises(ForeignDirectoryError):
        claim(tmp_path, "cluster")


def test_a_link_or_a_pipe_is_no_marker(tmp_path: Path) -> None:
    claim(tmp_path / "ours", "cluster")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / MARKER).symlink_to(tmp_path / "ours" / MARKER)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / MARKER)
    for name in ("theirs", "pipe"):
        with pytest.raises(ForeignDirectoryError):
            claim(tmp_path / name, "cluster")


def test_a_directory_for_one_purpose_is_not_taken_for_another(tmp_path: Path) -> None:
    claim(tmp_path / "state", "cluster")
    with pytest.raises(ForeignDirectoryError, match="of a cluster, not of a demonstration"):
        claim(tmp_path / "state", "demonstration")


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    with pytest.raises(InputError, match="written by others"):
        claim(tmp_path / "state", "cluster")
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_or_marker_is_refused(tmp_path: Path) -> None:
    claim(tmp_path / "marker", "cluster")
    os.chown(tmp_path / "marker" / MARKER, 12345, 12345)
    (tmp_path / "directory").mkdir()
    os.chown(tmp_path / "directory", 12345, 12345)
    with pytest.raises(InputError):
        claim(tmp_path / "directory", "cluster")
    for action in (lambda: claim(tmp_path / "marker", "cluster"), lambda: is_claimed(tmp_path / "marker")):
        with pytest.raises(ForeignDirectoryError, match="belongs to user 12345") as caught:
            action()
        assert "as that user" in str(caught.value.hint)


def test_who_only_looks_is_not_told_to_choose_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ForeignDirectoryError) as caught:
        is_claimed(tmp_path)
    assert "empty" not in str(caught.value.hint)


def test_a_file_in_the_way_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(InputError, match="file"):
            claim(path, "cluster")
    assert (tmp_path / "file").read_text() == "x"


def test_discarding_a_new_claim_removes_all_that_was_made(tmp_path: Path) -> None:
    claimed = claim(tmp_path / "a" / "state", "cluster")
    (claimed.root / "owner").mkdir()
    (claimed.root / "owner" / "key").write_text("k")
    claimed.discard()
    assert not list(tmp_path.iterdir())


def test_discarding_keeps_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    claim(tmp_path / "empty", "cluster").discard()
    assert (tmp_path / "empty").is_dir()
    assert not list((tmp_path / "empty").iterdir())
    old = claim(tmp_path / "old", "cluster")
    (old.root / "key").write_text("k")
    claim(tmp_path / "old", "cluster").discard()
    assert (old.root / "key").exists()
