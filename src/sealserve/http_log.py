"""What aiohttp's servers tell the log."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError

from sealserve.logs import get_logger


class _NotMalformed(logging.Filter):
    """Strangers' broken requests are no errors of ours, and must not fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def library_log(server: str) -> logging.Logger:
    """The logger for aiohttp's server in a module; pass ``__name__``."""
    logger = get_logger(f"{server}.http")
    if not logger.filters:
        logger.addFilter(_NotMalformed())
    return logger
