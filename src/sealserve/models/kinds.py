"""What kind of model a file is, by its first bytes and, between TensorFlow's two, by its structure."""

from __future__ import annotations

import enum

from sealserve.errors import ModelError
from sealserve.sealing.metadata import FILE_ID

HEAD_BYTES = 512
"""How many bytes of a file :func:`file_kind` wants to see."""


class Kind(enum.Enum):
    """What a model is kept in."""

    SAVED_MODEL = "saved-model"
    FROZEN_GRAPH = "frozen-graph"
    ONNX = "onnx"
    ARCHIVE = "archive"
    ENCRYPTED = "encrypted-file"


_MAGIC: tuple[tuple[int, bytes, Kind], ...] = (
    (0, FILE_ID, Kind.ENCRYPTED),
    (0, b"\x1f\x8b", Kind.ARCHIVE),
    (0, b"PK\x03\x04", Kind.ARCHIVE),
    (257, b"ustar", Kind.ARCHIVE),
)

_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF", "a Keras file in HDF5 form", "Load it in Keras, and export it with `model.export(directory)`."),
    (
        4,
        b"TFL3",
        "a TensorFlow Lite model",
        "Put it into the directory of a version, as model/1/model.tflite: the engine openvino serves it there.",
    ),
    (
        0,
        b"version https://git-lfs",
        "a pointer of Git LFS",
        "Run `git lfs pull`, or use the address of the file itself.",
    ),
    (0, b"BZh", "compressed with bzip2", "Unpack it first: .tar.gz, .tar and .zip are unpacked here."),
    (0, b"\xfd7zXZ", "compressed with xz", "Unpack it first: .tar.gz, .tar and .zip are unpacked here."),
)


def file_kind(head: bytes, name: str) -> Kind:
    """What a file is.

    :param head: its first :data:`HEAD_BYTES` bytes, or all if it has fewer.
    :param name: what it is called, for people.
    :raises ModelError: it is nothing that is known here; the hint goes by what it is.
    """
    for at, magic, kind in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return kind
    for at, magic, what, hint in _OTHERS:
        if head[at : at + len(magic)] == magic:
            raise ModelError(f"{name} is {what}", hint=hint)
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"{name} is a web page, and no model", hint="Use the address of the file itself.")
    if text.startswith((b"node {", b"meta_graphs {", b"saved_model_schema_version:")):
        raise ModelError(f"{name} is a graph in text form", hint="Save it in binary form (.pb).")
    # A GraphDef begins with a node, its field 1, which has a length. In a SavedModel and an ONNX model field 1 is a
    # number: the version of the schema, which has always been 1, and that of ONNX's IR, which has been 3 since 2017.
    if head[:1] == b"\x0a":
        return Kind.FROZEN_GRAPH
    if head[:1] == b"\x12" or head[:2] == b"\x08\x01":
        return Kind.SAVED_MODEL
    if head[:1] == b"\x08":
        return Kind.ONNX
    raise ModelError(
        f"{name} is no model that is known here",
        hint="Known are SavedModels, frozen graphs (.pb), ONNX models, and .tar.gz, .tar and .zip with one of them.",
    )
