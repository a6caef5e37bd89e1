from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.broker.audit import (
    FIRST,
    AuditInUseError,
    AuditLog,
    AuditTamperedError,
    AuditUnavailableError,
    verify_audit,
)
from sealserve.errors import ConfigurationError, InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def written(path: Path, count: int = 5) -> Path:
    log = AuditLog(path)
    for number in range(count):
        log.append({"event": "decision", "number": number})
    log.close()
    return path


def test_records_are_chained_by_the_hash_of_the_line_before(path: Path) -> None:
    lines = written(path).read_bytes().splitlines()
    previous = FIRST
    for number, line in enumerate(lines, 1):
        record = json.loads(line)
        assert (record["sequence"], record["previous"], record["number"]) == (number, previous, number - 1)
        previous = hashlib.sha256(line).hexdigest()
    summary = verify_audit(path)
    assert (summary.records, summary.head, summary.torn) == (5, previous, b"")


def test_the_file_is_private(path: Path) -> None:
    assert stat.S_IMODE(written(path).stat().st_mode) == 0o600


def test_a_log_goes_on_where_it_ended(path: Path) -> None:
    written(path)
    written(path)
    assert verify_audit(path).records == 10


def test_a_record_cannot_break_a_line(path: Path) -> None:
    log = AuditLog(path)
    log.append({"detail": 'line\nbreak\r\u2028 "quoted" \x00'})
    log.close()
    assert verify_audit(path).records == 1


def tampered(lines: list[bytes]) -> dict[str, list[bytes]]:
    return {
        "edited": [lines[0], lines[1].replace(b'"number":1', b'"number":9'), *lines[2:]],
        "removed": [lines[0], *lines[2:]],
        "first removed": lines[1:],
        "swapped": [lines[1], lines[0], *lines[2:]],
        "doubled": [lines[0], lines[0], *lines[1:]],
        "inserted": [lines[0], b'{"sequence":2,"previous":"' + b"0" * 64 + b'"}', *lines[1:]],
        "blank line": [lines[0], b"", *lines[1:]],
        "no JSON": [b"\xff", *lines[1:]],
        "no record": [b"[]", *lines[1:]],
        "space added": [lines[0] + b" ", *lines[1:]],
    }


@pytest.mark.parametrize("how", tampered([b"", b""]))
def test_a_changed_log_is_noticed_and_not_continued(path: Path, how: str) -> None:
    lines = written(path).read_bytes().splitlines()
    path.write_bytes(b"\n".join(tampered(lines)[how]) + b"\n")
    with pytest.raises(AuditTamperedError) as caught:
        verify_audit(path)
    assert "line " in str(caught.value)
    with pytest.raises(AuditTamperedError):
        AuditLog(path)


@pytest.fixture(scope="module")
def three_records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = written(tmp_path_factory.mktemp("audit") / "audit.jsonl", 3)
    return path, path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_changed_byte_is_noticed_by_who_kept_the_hash(
    three_records: tuple[Path, bytes], data: st.DataObject
) -> None:
    path, original = three_records
    head = hashlib.sha256(original.splitlines()[-1]).hexdigest()
    content = bytearray(original)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    # A change in the last line shows to them only.
    with pytest.raises(AuditTamperedError):
        verify_audit(path, must_contain=head)


def test_lines_missing_at_the_end_are_noticed_by_who_kept_a_hash(path: Path) -> None:
    lines = written(path).read_bytes().splitlines(keepends=True)
    head, earlier = verify_audit(path).head, hashlib.sha256(lines[1][:-1]).hexdigest()
    path.write_bytes(b"".join(lines[:3]))
    assert verify_audit(path).records == 3
    assert verify_audit(path, must_contain=earlier).records == 3
    with pytest.raises(AuditTamperedError):
        verify_audit(path, must_contain=head)


def test_a_write_that_a_crash_cut_short_is_taken_back_and_noted(path: Path) -> None:
    content = written(path).read_bytes()
    torn = content + b'{"sequence":6,"prev'
    path.write_bytes(torn)
    assert verify_audit(path).torn == b'{"sequence":6,"prev'
    AuditLog(path).close()
    last = json.loads(path.read_bytes().splitlines()[-1])
    assert (last["sequence"], last["event"], last["torn_bytes"]) == (6, "recovered", 19)
    assert last["torn_sha256"] == hashlib.sha256(b'{"sequence":6,"prev').hexdigest()
    assert verify_audit(path).records == 6


def test_a_record_that_does_not_fit_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path)
    log.append({"number": 0})
    head = log.head
    real = os.write

    def write(descriptor: int, data: memoryview) -> int:
        if len(data) > 10:
            return real(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sealserve.broker.audit.os.write", write)
        with pytest.raises(AuditUnavailableError, match="No space left") as caught:
            log.append({"number": 1})
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert log.head == head == verify_audit(path).head
    log.append({"number": 2})
    log.close()
    assert verify_audit(path).records == 2


def test_a_record_that_cannot_be_taken_back_ends_all_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    log = AuditLog(path)
    with monkeypatch.context() as patch:
        patch.setattr("sealserve.broker.audit.os.fsync", fail)
        patch.setattr("sealserve.broker.audit.os.ftruncate", fail)
        with pytest.raises(AuditUnavailableError):
            log.append({"number": 1})
    with pytest.raises(AuditUnavailableError, match="cannot be taken back"):
        log.append({"number": 2})
    log.close()
    with pytest.raises(AuditUnavailableError):
        log.append({"number": 3})


def test_two_brokers_do_not_write_one_log(path: Path) -> None:
    log = AuditLog(path)
    with pytest.raises(AuditInUseError):
        AuditLog(path)
    log.close()
    AuditLog(path).close()


def test_a_path_that_cannot_be_a_log_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        AuditLog(tmp_path / "missing" / "audit.jsonl")
    with pytest.raises(InputError):
        AuditLog(tmp_path)
    with pytest.raises(ConfigurationError):
        AuditLog(Path("/dev/full"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError):
        AuditLog(tmp_path / "pipe")
    with pytest.raises(InputError):
        verify_audit(tmp_path / "missing.jsonl")
