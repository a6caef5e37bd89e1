from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sealserve.errors import InputError
from sealserve.local.account import Account, as_text
from sealserve.local.events import ProcessDied, ProcessReady, ProcessReported, ProcessStarted, ProcessStopped
from sealserve.local.logview import Follower
from sealserve.local.rotation import RotatingLog, previous, rotate_if_full


def test_a_full_log_becomes_the_previous_one(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "x.log", limit=10)
    for text in (b"aaaa\n", b"bbbb\n", b"cccc\n"):
        log.write(text)
    log.close()
    assert (tmp_path / "x.log").read_bytes() == b"cccc\n"
    assert previous(tmp_path / "x.log").read_bytes() == b"aaaa\nbbbb\n"


def test_a_log_goes_on_where_an_earlier_run_stopped(tmp_path: Path) -> None:
    for text in (b"1\n", b"2\n"):
        log = RotatingLog(tmp_path / "x.log")
        log.write(text)
        log.close()
    assert (tmp_path / "x.log").read_bytes() == b"1\n2\n"


def test_what_ended_a_cluster_is_in_its_log_and_told_by_whoever_catches_it(tmp_path: Path) -> None:
    shown: list[object] = []
    account = Account(tmp_path / "supervisor.log", shown.append)
    with pytest.raises(InputError), account.failures():
        raise InputError("no model", hint="Get one.")
    with pytest.raises(KeyError), account.failures():
        raise KeyError("may hold anything")
    first, second = (json.loads(line) for line in (tmp_path / "supervisor.log").read_text().splitlines())
    assert (first["event"], first["error"], first["exit_code"]) == ("cluster-failed", "no model", 3)
    assert second["reason"] == "defect"
    assert "anything" not in second["error"]
    assert shown == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x.log").symlink_to("/dev/full")
    log = RotatingLog(tmp_path / "x.log")
    log.write(b"lost\n")
    log.close()


def test_a_log_that_another_program_has_open_is_emptied_only_when_full(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    assert not rotate_if_full(path)
    path.write_bytes(b"x" * 11)
    assert not rotate_if_full(path, limit=11)
    with path.open("ab") as held_by_nginx:
        assert rotate_if_full(path, limit=10)
        held_by_nginx.write(b"more")
    assert path.read_bytes() == b"more"
    assert previous(path).read_bytes() == b"x" * 11


def test_a_follower_reads_on_across_rotation(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log = RotatingLog(path, limit=14)
    log.write(b"one\ntwo\n")
    follower = Follower(path, lines=1)
    assert follower.new_lines() == ["two"]
    assert follower.new_lines() == []
    log.write(b"thr")
    assert follower.new_lines() == []
    log.write(b"ee\n")
    assert follower.new_lines() == ["three"]
    log.write(b"four\n")
    assert previous(path).exists()
    assert follower.new_lines() == ["four"]
    log.close()
    follower.close()


def test_the_last_lines_may_lie_in_the_previous_log(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    previous(path).write_text("1\n2\n3\n")
    path.write_text("4\n")
    assert Follower(path, lines=3).new_lines() == ["2", "3", "4"]
    assert Follower(path, lines=None).new_lines() == ["1", "2", "3", "4"]
    assert Follower(path, lines=0).new_lines() == []


def test_a_log_that_appears_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "x.log", lines=0)
    assert follower.new_lines() == []
    (tmp_path / "x.log").write_text("now\n")
    assert follower.new_lines() == ["now"]


def test_the_account_is_logged_as_json_and_told_as_text(tmp_path: Path) -> None:
    shown: list[str | None] = []
    account = Account(tmp_path / "supervisor.log", lambda entry: shown.append(as_text(entry)))
    account.hear(ProcessStarted("replica-1", 5, 1))
    account.hear(ProcessReported("replica-1", "loading"))
    account.hear(ProcessReady("replica-1", 5, 1.5, 1))
    account.hear(ProcessDied("replica-1", "killed by SIGKILL", "Memory?", 0.2))
    account.hear(ProcessStopped("replica-1", killed=True))
    assert len((tmp_path / "supervisor.log").read_text().splitlines()) == 5
    text = "\n".join(line for line in shown if line)
    assert "attested and serving" in text
    assert "killed by SIGKILL" in text
    assert "Memory?" in text
    assert "starting it again in 0.2 s" in text


def test_the_invitation_names_the_file_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = {"event": "cluster-ready", "seconds": 2.0, "gateway": "127.0.0.1:1"}
    default = as_text({**entry, "file": os.fspath(tmp_path / "deployment.yaml")})
    other = as_text({**entry, "file": "/else where/d.yaml"})
    assert default is not None
    assert "-f" not in default
    assert other is not None
    assert "sealserve predict -f '/else where/d.yaml' --image" in other
