"""Message classes in a descriptor pool of our own.

The default pool belongs to the application: a client may use ``tensorflow-serving-api`` in the same process, whose
files define the same message names, and protobuf refuses two definitions of one name in one pool.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

POOL = descriptor_pool.DescriptorPool()
DESCRIPTORS = "descriptors.binpb"

_files = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__package__).joinpath(DESCRIPTORS).read_bytes()
).file
for _file in _files:
    POOL.AddSerializedFile(_file.SerializeToString())

FILES = tuple(file.name for file in _files)
"""The files in the pool, each after those that it needs."""


def define(file_name: str) -> dict[str, Any]:
    """What a generated module of ``file_name`` would define: message classes, enums and enum values, by name."""
    file = POOL.FindFileByName(file_name)
    names: dict[str, Any] = {"DESCRIPTOR": file}
    for name, message in file.message_types_by_name.items():
        names[name] = message_factory.GetMessageClass(message)
    for name, enum in file.enum_types_by_name.items():
        names[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        names.update({value.name: value.number for value in enum.values})
    return names
