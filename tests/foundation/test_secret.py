"""A secret does not print, pickle or outlive its wiping."""

from __future__ import annotations

import io
import json
import logging
import pickle

import pytest

from sealserve import logs
from sealserve.secret import Secret

VALUE = b"0123456789abcdef"


def test_a_secret_never_prints_itself() -> None:
    secret = Secret(VALUE)
    for text in (repr(secret), str(secret), f"{secret}", format(secret)):
        assert "0123" not in text
        assert VALUE.hex()[:8] not in text


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret(VALUE))


def test_a_wiped_secret_is_zeroed_and_refuses_to_be_read() -> None:
    secret = Secret(VALUE)
    buffer = secret.reveal()
    secret.wipe()
    assert bytes(buffer) == b""
    with pytest.raises(ValueError, match="wiped"):
        secret.reveal()


def test_secrets_compare_by_value_and_do_not_hash() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(bytes(16))
    with pytest.raises(TypeError):
        hash(Secret(VALUE))


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_log_shows_neither_secrets_nor_bytes_nor_unknown_objects(json_lines: bool) -> None:
    stream = io.StringIO()
    logs.configure(json_lines=json_lines, stream=stream)

    class Holder:
        def __repr__(self) -> str:
            return VALUE.decode()

    logger = logs.get_logger("sealserve.test")
    logs.event(logger, logging.INFO, "released", key=Secret(VALUE), raw=VALUE, nested={"k": [VALUE, Holder()]}, n=3)
    text = stream.getvalue()
    assert "released" in text
    assert "0123" not in text
    assert VALUE.hex() not in text
    if json_lines:
        entry = json.loads(text)
        assert entry["key"] == "<Secret>"
        assert entry["n"] == 3
        assert entry["event"] == "released"
