"""TFRecord files: a length, its checksum, the record, its checksum, and so on to the end.

The source of the format is ``tensorflow/core/lib/io/record_writer.h``; checksums are CRC-32C, masked as in
``tensorflow/core/lib/hash/crc32c.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from sealserve.errors import InputError

MAX_RECORD = 1 << 31
"""Bytes of one record: a protobuf message cannot be larger."""

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


class TfRecordError(InputError):
    """A file is no TFRecord file, or is damaged; the message names the record, counted from 1."""


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """The records of an uncompressed file, one after the other.

    :raises TfRecordError: a record is cut short, or a checksum does not fit.
    """
    number = 0
    while header := file.read(_HEADER.size):
        number += 1
        if len(header) < _HEADER.size:
            raise TfRecordError(f"record {number} is cut short")
        length, checksum = _HEADER.unpack(header)
        # Checked before the length is believed.
        if _masked(header[:8]) != checksum:
            raise TfRecordError(f"record {number} is damaged: the checksum of its length does not fit")
        if length >= MAX_RECORD:
            raise TfRecordError(f"record {number} is too large: {length} bytes")
        record = file.read(length)
        footer = file.read(_FOOTER.size)
        if len(record) < length or len(footer) < _FOOTER.size:
            raise TfRecordError(f"record {number} is cut short")
        if _FOOTER.unpack(footer)[0] != _masked(record):
            raise TfRecordError(f"record {number} is damaged: its checksum does not fit")
        yield record


def _masked(data: bytes) -> int:
    checksum = int(google_crc32c.value(data))
    return ((checksum >> 15 | checksum << 17) + _MASK_DELTA) & 0xFFFFFFFF
