"""Structured logs: one JSON object a line for machines, one short line for a terminal.

Fields are given as ``extra={"fields": {...}}`` through :func:`event`. A :class:`~sealserve.secret.Secret`, a private
key object and raw bytes never reach the output: bytes are shown by their length, everything unknown by its type.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

_ROOT = "sealserve"


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; pass ``__name__``."""
    return logging.getLogger(name)


def event(logger: logging.Logger, level: int, name: str, /, **fields: Any) -> None:
    """Log one event.

    :param name: what happened, in kebab case and the past tense: ``"key-released"``.
    :param fields: plain values; see :func:`presentable` for what becomes of others.
    """
    if logger.isEnabledFor(level):
        # Not by logger.log(), which would look for the caller's line each time.
        record = logging.LogRecord(logger.name, level, "", 0, name, (), None)
        record.fields = fields
        logger.handle(record)


def presentable(value: Any) -> Any:
    """A JSON-ready form of ``value`` that cannot carry a secret."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case dict():
            return {str(key): presentable(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [presentable(item) for item in value]
        case Path() | datetime():
            return str(value)
        case BaseException():
            return str(value)
        case _:
            return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    """``text`` without the power to do anything to a terminal: control, format and bidi characters are shown escaped.

    For whatever somebody else may have written: a replica's log, a file's name, a message that quotes either.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``event`` and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            entry.update(presentable(fields))
        if record.exc_info and record.exc_info[1] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class TextFormatter(logging.Formatter):
    """``12:00:01 warning  replica-lost name=replica-1`` for people."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone()
        fields = getattr(record, "fields", None)
        line = _text_of(moment, record.levelname.lower(), record.getMessage(), fields)
        return line + _exception_of(self, record)


def readable(line: str) -> str | None:
    """What :class:`TextFormatter` would have made of a line of :class:`JsonFormatter`; None if it is no such line.

    Times are local, with the day if it is not today. An exception's lines follow. Nothing in it commands a terminal.
    """
    try:
        entry = json.loads(line)
        time, level, name = (str(entry.pop(key)) for key in ("time", "level", "event"))
        moment = datetime.fromisoformat(time).astimezone()
        entry.pop("logger", None)
        exception = entry.pop("exception", None)
        text = _text_of(moment, level, name, entry) + (f"\n{printable_lines(str(exception))}" if exception else "")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return text if moment.date() == datetime.now().astimezone().date() else f"{moment:%Y-%m-%d} {text}"


def _text_of(moment: datetime, level: str, name: str, fields: Any) -> str:
    tail = " ".join(f"{k}={presentable(v)}" for k, v in fields.items()) if isinstance(fields, dict) else ""
    return printable(f"{moment:%H:%M:%S} {level:<8} {name} {tail}".rstrip())


class CommandFormatter(logging.Formatter):
    """``warning: insecure policy loaded: policy replicas, accepts simulated platforms``: as commands speak."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        details = [f"{k.replace('_', ' ')} {_plain(v)}" for k, v in fields.items()] if isinstance(fields, dict) else []
        line = f"{record.levelname.lower()}: {record.getMessage().replace('-', ' ')}"
        return printable(line + (": " + ", ".join(details) if details else "")) + _exception_of(self, record)


def _plain(value: Any) -> str:
    shown = presentable(value)
    return ", ".join(map(str, shown)) if isinstance(shown, list) else str(shown)


def _exception_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return "\n" + printable_lines(formatter.formatException(record.exc_info))


def configure(
    *, json_lines: bool, level: int = logging.INFO, stream: TextIO | None = None, command: bool = False
) -> None:
    """Send the logs of sealserve to ``stream`` (standard error if not given), as JSON lines or as text.

    :param command: as text of a command that ends soon: without times.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else CommandFormatter() if command else TextFormatter())
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
