"""Logged lines, read again by people."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import pytest

from sealserve.logs import JsonFormatter, TextFormatter, readable


def _record(**fields: object) -> logging.LogRecord:
    record = logging.LogRecord("sealserve.x", logging.WARNING, "", 0, "grant-refused", (), None)
    record.fields = fields
    return record


def test_a_json_line_reads_as_if_it_had_been_logged_as_text() -> None:
    record = _record(reason="not known", decision=12, models=["a", "b"], key=b"secret")
    assert readable(JsonFormatter().format(record)) == TextFormatter().format(record)


def test_another_days_line_has_its_day() -> None:
    record = _record()
    record.created = datetime(2026, 2, 3, 12, tzinfo=UTC).timestamp()
    assert readable(JsonFormatter().format(record)) == "2026-02-03 " + TextFormatter().format(record)


def test_an_exception_has_lines_of_its_own() -> None:
    record = _record()
    record.exc_info = (ValueError, ValueError("a\x1b[2J\nb"), None)
    first, *rest = (readable(JsonFormatter().format(record)) or "").splitlines()
    assert first.endswith("grant-refused")
    assert rest == ["ValueError: a\\x1b[2J", "b"]


def test_nothing_in_a_line_commands_the_terminal() -> None:
    line = {"time": "2026-11-30T05:00:00+00:00", "level": "\x1b[1m", "event": "a\nb", "\x9b": {"\r": "\u202e"}}
    assert (readable(json.dumps(line)) or "\x1b").isprintable()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "GET / 200",
        '"text"',
        "[1]",
        "12",
        "{}",
        '{"time": 1, "level": "info", "event": "x"}',
        '{"time": "soon", "level": "info", "event": "x"}',
        '{"time": "0001-01-01T00:00:00+23:00", "level": "info", "event": "x"}',
        "[" * 100_000,
    ],
)
def test_lines_of_others_are_not_taken_for_ours(line: str) -> None:
    assert readable(line) is None


@pytest.mark.parametrize("depth", [450, 600, 800, 970])
def test_a_deep_line_is_no_defect(depth: int) -> None:
    entry = '{"time": "2026-11-30T05:00:00+00:00", "level": "info", "event": "x", "y": '
    assert "x" in (readable(f"{entry}{'[' * depth}{']' * depth}}}") or "x")
