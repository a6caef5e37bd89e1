"""Tensors out of a PyTorch weight file of the format before 1.6, without PyTorch and without running anything in it.

The format, as ``torch/serialization.py`` (``_legacy_save``) writes it: three pickles (magic number, protocol version,
system information), the pickled object whose storages are persistent ids ``('storage', type, key, device, count,
None)``, a pickled list of storage keys, and for each key in that order the number of elements as a little-endian
64-bit integer and the raw elements.

Unpickling runs whatever a file names. Here a file can name four things, all of which only describe tensors; anything
else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sealserve.errors import ModelError
from sealserve.files import explain_os_error

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

_MAX_DIMENSIONS = 8
_STORAGE_TYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
# Everything that the standard library's unpickler raises on a malformed file, by its documentation and its source.
_MALFORMED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


class WeightFileError(ModelError):
    """A weight file is malformed, or names something that is no tensor."""


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pytorch_file(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read a file that holds a dictionary of tensors (a ``state_dict``).

    :returns: read-only arrays by name, with the shape and the strides that the file gives them.
    :raises WeightFileError: see the class. :raises InputError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise explain_os_error(error, path, "read") from error
    return parse_pytorch_file(data)


def parse_pytorch_file(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """As :func:`read_pytorch_file`, from bytes in memory."""
    file = io.BytesIO(data)
    if _unpickle(file) != MAGIC_NUMBER:
        raise WeightFileError("not a PyTorch weight file of the format before 1.6: another magic number")
    if _unpickle(file) != PROTOCOL_VERSION:
        raise WeightFileError("the weight file has another protocol version than 1001")
    _unpickle(file)  # the writer's byte order and type sizes; the tensors' are fixed by the format
    tensors = _unpickle(file, _TENSOR_GLOBALS)
    keys = _unpickle(file)
    if not isinstance(tensors, dict) or not isinstance(keys, list):
        raise WeightFileError("the weight file does not hold a dictionary of tensors")
    storages: dict[str, _Storage] = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise WeightFileError("the weight file does not hold a dictionary of tensors")
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise WeightFileError(f"the weight file describes the storage {tensor.storage.key} twice")
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or key in arrays:
            raise WeightFileError("the weight file's list of storages does not fit its tensors")
        arrays[key] = _read_storage(data, file, storage)
    if missing := storages.keys() - arrays.keys():
        raise WeightFileError(f"the weight file lacks {len(missing)} of its storages")
    return {name: _view(name, tensor, arrays[tensor.storage.key]) for name, tensor in tensors.items()}


def _rebuild_tensor(storage: object, offset: object, shape: object, strides: object, *_rest: object) -> _Tensor:
    """In the place of ``torch._utils._rebuild_tensor_v2``; what follows the strides concerns gradients."""
    match (storage, offset, shape, strides):
        case (_Storage(), int(), tuple(), tuple()) if len(shape) == len(strides) <= _MAX_DIMENSIONS:
            if all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
                return _Tensor(storage, offset, shape, strides)
    raise pickle.UnpicklingError("malformed tensor")


_TENSOR_GLOBALS: dict[tuple[str, str], Callable[..., Any] | _StorageType] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_TYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, allowed: dict[tuple[str, str], Any]) -> None:
        super().__init__(file)
        self._allowed = allowed

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self._allowed[module_name, global_name]
        except KeyError:
            raise WeightFileError(
                f"the weight file names {module_name}.{global_name}, which describes no tensor",
                hint="Do not use this file: reading it with PyTorch could run code from it.",
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageType(dtype), str(key), str(), int(count), None) if count >= 0:
                return _Storage(key, dtype, count)
            case _:
                raise pickle.UnpicklingError("malformed storage")


def _unpickle(file: BinaryIO, allowed: dict[tuple[str, str], Any] | None = None) -> Any:
    try:
        _check_memo(file)
        return _Unpickler(file, allowed or {}).load()
    except _MALFORMED as error:
        raise WeightFileError("the weight file is malformed or cut short") from error


def _check_memo(file: BinaryIO) -> None:
    """Refuse a memo index beyond the pickle's size: the unpickler makes a table as long as the largest one says."""
    start = file.tell()
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > (position or 0):
            raise pickle.UnpicklingError("memo index out of range")
    file.seek(start)


def _read_storage(data: bytes, file: io.BytesIO, storage: _Storage) -> np.ndarray[Any, Any]:
    header = file.read(8)
    size = storage.count * storage.dtype.itemsize
    if len(header) != 8 or struct.unpack("<q", header)[0] != storage.count or size > len(data) - file.tell():
        raise WeightFileError(f"the weight file is cut short in the storage {storage.key}")
    array = np.frombuffer(data, dtype=storage.dtype, count=storage.count, offset=file.tell())
    file.seek(size, io.SEEK_CUR)
    return array


def _view(name: str, tensor: _Tensor, storage: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The tensor's view of its storage. An index beyond the storage would read memory that is not the file's."""
    if not 1 <= math.prod(tensor.shape) <= storage.size:
        raise WeightFileError(f"the tensor {name} declares {math.prod(tensor.shape)} elements of {storage.size}")
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if last >= storage.size:
        raise WeightFileError(f"the tensor {name} reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
