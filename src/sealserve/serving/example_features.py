"""tf.Examples into arrays, as TensorFlow's ``ParseExample`` reads them, without TensorFlow.

Rules and messages are those of ``tensorflow/core/util/example_proto_fast_parsing.cc``.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError
from sealserve.wire.skim import SkimError, skim
from sealserve.wire.tensorflow_pb2 import DataType, Example
from sealserve.wire.tensors import numpy_type, type_name

_FIELDS = {"float_list": DataType.DT_FLOAT, "int64_list": DataType.DT_INT64, "bytes_list": DataType.DT_STRING}
_LISTS: dict[int, str] = {number: field for field, number in _FIELDS.items()}
_SMALL = 64 << 10  # bytes of an Example that may grow: once parsed it takes 81 times its size at most


@dataclass(frozen=True)
class Feature:
    """A feature that becomes a tensor of its own, a row for each Example.

    :ivar data_type: float, int64 or string, as a ``DataType``.
    :ivar shape: of a row; the first size is -1 where each Example may have another number of them. Rows are filled up
        to the longest then.
    :ivar default: a row's values, or the one that fills up; None where each Example must have the feature.
    """

    key: str
    data_type: int
    shape: tuple[int, ...]
    default: Array | None

    @property
    def is_variable(self) -> bool:
        """Whether Examples may have different numbers of values."""
        return self.shape[:1] == (-1,)


@dataclass(frozen=True)
class Parsing:
    """One operation that parses Examples.

    :ivar features: in its order; those that the graph does not use are checked all the same.
    :ivar others: types of sparse and ragged features by key: only their types are checked.
    """

    features: tuple[Feature, ...]
    others: Mapping[str, int]


def parse_examples(
    parsing: Parsing, examples: Sequence[bytes], wanted: Container[str], *, max_bytes: int
) -> dict[str, Array]:
    """The features of some keys, each ``[len(examples), *shape]``.

    :param examples: serialized.
    :param max_bytes: that the arrays may take together.
    :raises RequestError: an Example is malformed, lacks a feature, or has one of another type or size.
    """
    columns = []
    for feature in parsing.features:
        size = 0 if feature.is_variable else len(examples) * math.prod(feature.shape)
        if feature.key in wanted:
            max_bytes = _take(feature, size, max_bytes)
        columns.append(_Column(feature, len(examples), is_wanted=feature.key in wanted))
    for index, data in enumerate(examples):
        found = _parse(data, max_bytes).features.feature
        for key, data_type in parsing.others.items():
            if key in found:
                _values(found[key], key, data_type, index)
        for column in columns:
            column.read(found, index)
    arrays = {}
    for column in columns:
        if column.feature.key in wanted:
            arrays[column.feature.key] = array = column.array(max_bytes)
            max_bytes -= array.nbytes if column.feature.is_variable else 0
    return arrays


class _Column:
    """What all Examples have of one feature."""

    def __init__(self, feature: Feature, count: int, *, is_wanted: bool) -> None:
        self.feature = feature
        self._field = _LISTS[feature.data_type]
        self._size = -1 if feature.is_variable else math.prod(feature.shape)
        self._dtype = numpy_type(feature.data_type)
        self._is_wanted = is_wanted
        self._fixed = np.empty((count if is_wanted else 0, max(self._size, 0)), self._dtype)
        self._rows: list[Array] = []

    def read(self, found: Any, index: int) -> None:
        """Take the feature from those of an Example. :raises RequestError: it is not there, or another one."""
        key, values = self.feature.key, None
        if key in found:
            values = getattr(found[key], self._field).value
            if not values:
                values = _values(found[key], key, self.feature.data_type, index)
        if values is None or len(values) != self._size:
            values = _checked(self.feature, values, index)
        if not self._is_wanted:
            return
        # Copies: a reference into the message would keep all of it.
        if self._size < 0:
            self._rows.append(np.fromiter(values, self._dtype, len(values)))
        else:
            self._fixed[index] = values[0] if self._size == 1 else values

    def array(self, max_bytes: int) -> Array:
        """``[Examples, *shape]``. :raises RequestError: filled up, it takes more than ``max_bytes``."""
        shape, rows = self.feature.shape, self._rows
        if self._size >= 0:
            return self._fixed.reshape(-1, *shape)
        longest, default = max(map(len, rows)), self.feature.default
        _take(self.feature, len(rows) * longest, max_bytes)
        array = np.full((len(rows), longest), 0 if default is None else default.flat[0], self._dtype)
        for row, values in zip(array, rows, strict=True):
            row[: len(values)] = values
        return array.reshape(len(rows), longest // math.prod(shape[1:]), *shape[1:])


def _parse(data: bytes, max_bytes: int) -> Example:
    try:
        if len(data) > _SMALL:
            skim(data, Example, max_bytes=max_bytes)
        return Example.FromString(data)
    except SkimError as error:
        raise RequestError(f"an Example is too large: {error}") from error
    except DecodeError as error:
        raise RequestError("Could not parse example input") from error


def _values(feature: Any, key: str, data_type: int, index: int) -> Any:
    """The list of a feature; None of one without any."""
    field = feature.WhichOneof("kind")
    if field is None:
        return None
    if _FIELDS[field] != data_type:
        raise RequestError(
            f"Name: <unknown>, Key: {key}, Index: {index}.  Data types don't match. "
            f"Data type: {type_name(_FIELDS[field])} but expected type: {type_name(data_type)}"
        )
    return getattr(feature, field).value


def _checked(feature: Feature, values: Any, index: int) -> Any:
    """The values, or those that stand for missing ones."""
    if values is None:
        if feature.is_variable:
            return ()
        if feature.default is None:
            raise RequestError(
                f"Name: <unknown>, Feature: {feature.key} (data type: {type_name(feature.data_type)}) "
                "is required but could not be found."
            )
        return feature.default.ravel()
    head = f"Name: <unknown>, Key: {feature.key}, Index: {index}.  Number of {type_name(feature.data_type)} values"
    shape = f"[{','.join('?' if size < 0 else str(size) for size in feature.shape)}]"
    if feature.is_variable:
        if len(values) % math.prod(feature.shape[1:]):
            raise RequestError(
                f"{head} is not a multiple of stride length. Saw {len(values)} values but output shape is: {shape}"
            )
    elif len(values) != math.prod(feature.shape):
        raise RequestError(f"{head} != expected.  Values size: {len(values)} but output shape: {shape}")
    return values


def _take(feature: Feature, count: int, max_bytes: int) -> int:
    """What is left of ``max_bytes``. :raises RequestError: the feature's elements take more."""
    size = count * numpy_type(feature.data_type).itemsize
    if size > max_bytes:
        raise RequestError(
            f"the feature {feature.key} takes {size} bytes in all Examples; at most {max_bytes} are left"
        )
    return max_bytes - size
