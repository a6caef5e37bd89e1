"""The audit chain: whoever changes it is found out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.broker.audit import FIRST, AuditTamperedError, line_hash, make_line, sign_head, verify_chain
from sealserve.broker.audit_export import read_public_key, verify_export
from sealserve.errors import InputError

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()


def chain(count: int, *, every: int = 0, key: Ed25519PrivateKey = KEY) -> list[bytes]:
    """``count`` records, with a checkpoint after each ``every``."""
    lines: list[bytes] = []
    head = FIRST

    def add(record: dict[str, object]) -> None:
        nonlocal head
        lines.append(make_line(len(lines) + 1, head, record))
        head = line_hash(lines[-1])

    for number in range(count):
        add({"event": "decision", "number": number})
        if every and (number + 1) % every == 0:
            add({"event": "checkpoint", "signature": sign_head(key, len(lines), head)})
    return lines


def rewritten(lines: list[bytes], key: Ed25519PrivateKey | None = None) -> list[bytes]:
    """The same records, chained anew by somebody who knows how, and signed by another key if at all."""
    out: list[bytes] = []
    head = FIRST
    for line in lines:
        record = json.loads(line) | {"sequence": len(out) + 1, "previous": head}
        if key is not None and record["event"] == "checkpoint":
            record["signature"] = sign_head(key, len(out), head)
        out.append(json.dumps(record, separators=(",", ":")).encode())
        head = line_hash(out[-1])
    return out


def test_records_are_chained_by_the_hash_of_the_line_before() -> None:
    lines = chain(5)
    previous = FIRST
    for number, line in enumerate(lines, 1):
        record = json.loads(line)
        assert (record["sequence"], record["previous"], record["number"]) == (number, previous, number - 1)
        previous = hashlib.sha256(line).hexdigest()
    summary = verify_chain(lines, public_key=None)
    assert (summary.records, summary.head, summary.signed) == (5, previous, 0)


@pytest.mark.parametrize("name", ["sequence", "previous", "time"])
def test_a_record_cannot_replace_what_chains_it(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make_line(1, FIRST, {"event": "decision", name: "0" * 64})


def test_a_record_cannot_break_a_line() -> None:
    line = make_line(1, FIRST, {"detail": 'line\nbreak\r\u2028 "quoted" \x00'})
    assert b"\n" not in line
    assert b"\0" not in line
    assert verify_chain([line], public_key=None).records == 1


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
def test_a_changed_chain_is_noticed(how: str) -> None:
    with pytest.raises(AuditTamperedError, match="record "):
        verify_chain(tampered(chain(5))[how], public_key=None)


def test_a_chain_that_was_written_anew_is_noticed_by_its_checkpoints() -> None:
    lines = chain(6, every=3)
    summary = verify_chain(lines, public_key=PUBLIC)
    assert (summary.checkpoints, summary.signed) == (2, 7)
    forgeries = {
        "edited": [lines[0].replace(b'"number":0', b'"number":9'), *lines[1:]],
        "removed": [lines[0], *lines[2:]],
        "swapped": [lines[1], lines[0], *lines[2:]],
        "a checkpoint moved": [*lines[:2], lines[3], lines[2], *lines[4:]],
    }
    for name, forgery in forgeries.items():
        anew = rewritten(forgery)
        assert verify_chain(anew, public_key=None), name
        with pytest.raises(AuditTamperedError, match="checkpoint"):
            verify_chain(anew, public_key=PUBLIC)
        with pytest.raises(AuditTamperedError, match="checkpoint"):
            verify_chain(rewritten(forgery, Ed25519PrivateKey.generate()), public_key=PUBLIC)


def test_a_hash_from_after_the_export_is_told_as_what_it_may_be() -> None:
    lines = chain(6)
    with pytest.raises(AuditTamperedError, match="no record has the hash") as caught:
        verify_chain(lines[:3], public_key=None, must_contain=line_hash(lines[5]))
    assert "export it again" in (caught.value.hint or "")


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64, None, 5, ["00"]])
def test_what_is_no_signature_is_no_checkpoint(signature: object) -> None:
    lines = chain(3)
    lines.append(make_line(4, line_hash(lines[-1]), {"event": "checkpoint", "signature": signature}))
    with pytest.raises(AuditTamperedError):
        verify_chain(lines, public_key=PUBLIC)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_changed_byte_is_noticed_by_who_kept_the_hash(data: st.DataObject) -> None:
    lines = [bytearray(line) for line in chain(3)]
    head = line_hash(bytes(lines[-1]))
    line = data.draw(st.sampled_from(lines))
    line[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
    # A change in the last line shows to them only.
    with pytest.raises(AuditTamperedError):
        verify_chain([bytes(line) for line in lines], public_key=PUBLIC, must_contain=head)


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(5)))
def test_no_other_order_is_accepted(order: list[int]) -> None:
    lines = chain(5)
    if order == sorted(order):
        assert verify_chain(lines, public_key=None).records == 5
    else:
        with pytest.raises(AuditTamperedError):
            verify_chain([lines[index] for index in order], public_key=None)


def test_lines_missing_at_the_end_are_noticed_by_who_kept_a_hash() -> None:
    lines = chain(5)
    assert verify_chain(lines[:3], public_key=None).records == 3
    assert verify_chain(lines[:3], public_key=None, must_contain=line_hash(lines[1])).records == 3
    with pytest.raises(AuditTamperedError):
        verify_chain(lines[:3], public_key=None, must_contain=line_hash(lines[4]))


def test_a_file_that_ends_in_the_middle_of_a_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"\n".join(chain(3)))
    with pytest.raises(AuditTamperedError, match="cut"):
        verify_export(path, public_key=None)
    path.write_bytes(b"\n".join(chain(3)) + b"\n")
    assert verify_export(path, public_key=None).records == 3
    with pytest.raises(InputError):
        verify_export(tmp_path / "missing", public_key=None)


def test_what_is_no_public_key_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("no key")
    with pytest.raises(InputError, match="Ed25519"):
        read_public_key(path)
