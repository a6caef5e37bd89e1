"""Tensors from JSON values, as TensorFlow Serving's ``json_tensor.cc`` makes them, with its messages.

Stricter in one thing: a number that its type cannot hold is refused, where TensorFlow Serving cuts it off.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError, UnsupportedError
from sealserve.serving.rest.json_text import shown, type_of
from sealserve.serving.rest.numbers import MOST_DIMENSIONS, Numbers
from sealserve.wire.bfloat16 import BFLOAT16, narrow, widen
from sealserve.wire.tensors import TensorError, numpy_type, type_name

_SPACES = str.maketrans("", "", " \t\n\r\v\f")


class NotATensorError(ValueError):
    """A value does not make a tensor; :func:`explain` says why."""


def is_base64(value: Any) -> bool:
    """Whether a value is ``{"b64": "…"}``."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: Any) -> bytes:
    """The bytes of ``{"b64": "…"}``, with or without padding. :raises RequestError: it is not that."""
    if not is_base64(value):
        raise RequestError(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = value["b64"].translate(_SPACES)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("Unable to base64 decode") from error


def to_array(value: Any, data_type: int) -> Array:
    """A tensor from a value: lists become dimensions.

    :param data_type: a ``DataType``.
    :raises RequestError: lists are ragged, a value is of another type, or a number does not fit.
    """
    dtype = supported_type(value, data_type)
    try:
        return make_array(value, dtype)
    except NotATensorError:
        explain(value, data_type, dtype)


def supported_type(value: Any, data_type: int) -> np.dtype[Any]:
    """NumPy's type. :raises RequestError: JSON has no values for it."""
    try:
        dtype = numpy_type(data_type)
    except TensorError:
        dtype = None
    if dtype is None or dtype.kind == "c":
        raise UnsupportedError(f"Conversion of JSON Value: {shown(value)} to type: {type_name(data_type)}")
    return dtype


def make_array(value: Any, dtype: np.dtype[Any]) -> Array:
    """Like :func:`to_array`, without saying what is wrong. :raises NotATensorError: something is."""
    if isinstance(value, Numbers):
        return _convert(value.array, dtype)
    shape: list[int] = []
    level: Sequence[Any] = [value]
    # A level at a time, with loops that run in C.
    while level and isinstance(level[0], (list, Numbers)):
        kinds = set(map(type, level))
        if Numbers in kinds:
            return _stack(level, shape, dtype)
        if kinds != {list} or len(sizes := set(map(len, level))) != 1:
            raise NotATensorError
        shape.append(sizes.pop())
        _check_dimensions(len(shape))
        level = list(chain.from_iterable(level))
    return _leaves(level, dtype).reshape(shape)


def _stack(level: Sequence[Any], shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    arrays = [make_array(item, dtype) for item in level]
    if len({array.shape for array in arrays}) != 1:
        raise NotATensorError
    _check_dimensions(len(shape) + arrays[0].ndim)
    return np.stack(arrays).reshape(*shape, *arrays[0].shape)


def _check_dimensions(count: int) -> None:
    if count > MOST_DIMENSIONS:
        raise RequestError(f"a tensor has at most {MOST_DIMENSIONS} dimensions")


def _leaves(values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    kinds = set(map(type, values))
    match dtype.kind:
        case "O":
            array = np.empty(len(values), dtype=object)
            array[:] = [_string(value) for value in values]
            return array
        case "b":
            if not kinds <= {bool}:
                raise NotATensorError
            return np.array(values, dtype=dtype)
        case "f" | "V":
            if not kinds <= {int, float}:
                raise NotATensorError
            try:
                return _convert(np.array(values, dtype=np.float64), dtype)
            except OverflowError as error:
                raise NotATensorError from error
        case _:
            limits = np.iinfo(dtype)
            if not kinds <= {int} or (values and (min(values) < limits.min or max(values) > limits.max)):
                raise NotATensorError
            return np.array(values, dtype=dtype)


def _convert(array: Array, dtype: np.dtype[Any]) -> Array:
    """From int64 or float64, as far as they fit."""
    if dtype.kind in "fV":
        # By way of float64, as RapidJSON does: a large integer is rounded to it first.
        wide = array.astype(np.float64, copy=False)
        with np.errstate(over="ignore"):
            converted = narrow(wide) if dtype == BFLOAT16 else wide.astype(dtype, copy=False)
        numbers = widen(converted) if dtype == BFLOAT16 else converted
        if dtype.itemsize < 8 and (np.isinf(numbers) & np.isfinite(wide)).any():
            raise NotATensorError
        return converted
    if dtype.kind not in "iu" or array.dtype.kind != "i":
        raise NotATensorError
    limits = np.iinfo(dtype)
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise NotATensorError
    return array.astype(dtype, copy=False)


def _string(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise NotATensorError from error
    if isinstance(value, dict):
        try:
            return decode_base64(value)
        except RequestError as error:
            raise NotATensorError from error
    raise NotATensorError


def explain(value: Any, data_type: int, dtype: np.dtype[Any]) -> NoReturn:
    """Say what is wrong with a value that makes no tensor. :raises RequestError: always."""
    value = _plain(value)
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    _look(value, 0, shape, data_type, dtype)
    raise AssertionError("unreachable: the value makes a tensor")


def _look(value: Any, level: int, shape: Sequence[int], data_type: int, dtype: np.dtype[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise RequestError(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        if isinstance(value, dict) and dtype.kind == "O":
            decode_base64(value)
        try:
            _leaves([value], dtype)
        except NotATensorError:
            raise RequestError(
                f"JSON Value: {shown(value)} Type: {type_of(value)} is not of expected type: {type_name(data_type)}"
            ) from None
        return
    if level >= len(shape):
        raise RequestError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise RequestError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _look(item, level + 1, shape, data_type, dtype)


def _plain(value: Any) -> Any:
    match value:
        case Numbers():
            return value.to_list()
        case list():
            return [_plain(item) if isinstance(item, (list, Numbers)) else item for item in value]
        case _:
            return value
