"""TensorFlow's tensor bundles, written here."""

from __future__ import annotations

from sealserve.wire.tensorflow_pb2 import BundleEntryProto, DataType, TensorShapeProto


def varint(number):
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def block(entries):
    """A block of LevelDB's table format, its keys shortened as LevelDB does."""
    body, last = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def table(entries, *, compression=0, at_once=2, repeated=1):
    """A table with ``at_once`` entries in a block, and ``repeated`` handles of each block."""
    written, handles = b"", []
    for at in range(0, len(entries), at_once):
        content = block(entries[at : at + at_once])
        last = entries[min(at + at_once, len(entries)) - 1][0]
        handles += [(last, varint(len(written)) + varint(len(content)))] * repeated
        written += content + bytes([compression]) + bytes(4)
    index = block(handles)
    footer = varint(0) + varint(0) + varint(len(written)) + varint(len(index))
    return written + index + bytes(5) + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def entry(array, offset, **changed):
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    fields = {"dtype": DataType.DT_FLOAT, "shape": shape, "offset": offset, "size": array.nbytes, **changed}
    return BundleEntryProto(**fields).SerializeToString()


def slice_key(name, extents):
    """The key of a stored part, in TensorFlow's ordered code (``ordered_code.cc``)."""
    escaped = b"".join({0: b"\0\xff", 255: b"\xff\0"}.get(byte, bytes([byte])) for byte in name)
    key = b"\0" + escaped + b"\0\1"
    count = len(extents).to_bytes((len(extents).bit_length() + 7) // 8, "big")
    key += bytes([len(count)]) + count
    for start, length in extents:
        key += signed(start) + signed(length)
    return key


def signed(number):
    """A number of at most 48 bits: as many leading ones as bytes, a zero, its bits; all inverted if it is negative."""
    magnitude = ~number if number < 0 else number
    length = 1
    while magnitude >= 1 << (7 * length - 1):
        length += 1
    bits = magnitude | ((1 << length) - 1) << (7 * length)
    if number < 0:
        bits ^= (1 << (8 * length)) - 1
    return bits.to_bytes(length, "big")


__all__ = ["entry", "signed", "slice_key", "table", "varint"]
