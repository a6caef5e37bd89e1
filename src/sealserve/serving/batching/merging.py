"""Arrays of several requests put together, and the answer taken apart.

What each caller gets are its own rows and nothing else; rows that fill up a batch are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sealserve.serving.batching.errors import NoBatchDimensionError
from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError

MOST_PADDING = 64 << 20
"""Bytes that may be filled up in a batch. TensorFlow Serving has no such bound: one long row would make all others as
long, and callers choose how long."""

Inputs = Mapping[str, Array]
Shapes = dict[str, tuple[int, ...]]


def batch_size(inputs: Inputs) -> int:
    """Rows of a request. :raises RequestError: it has none, or not the same number in each input."""
    if not inputs:
        raise RequestError("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in inputs.values()):
        raise RequestError("Batching Run() input tensors must have at least one dimension")
    sizes = {array.shape[0] for array in inputs.values()}
    if len(sizes) > 1:
        raise RequestError("Batching Run() input tensors must have equal 0th-dimension size")
    return int(sizes.pop())


def inner_shapes(inputs: Inputs) -> Shapes:
    """The shapes of one row."""
    return {name: array.shape[1:] for name, array in inputs.items()}


def widest(one: Shapes, other: Shapes) -> Shapes:
    """Shapes into which rows of both fit. Both have the same names and numbers of dimensions."""
    return {name: tuple(map(max, shape, other[name])) for name, shape in one.items()}


def row_bytes(inputs: Inputs, shapes: Shapes) -> int:
    """What a row of these shapes takes."""
    return sum(array.itemsize * math.prod(shapes[name]) for name, array in inputs.items())


def merge(requests: Sequence[Inputs], shapes: Shapes, rows: int, size: int) -> dict[str, Array]:
    """All requests' rows in one array for each input.

    :param shapes: of one row; where a request's is smaller, it is filled up with the first element of the request.
    :param rows: of all requests.
    :param size: of the batch, filled up with the first row of the last request.
    """
    merged = {}
    for name, first in requests[0].items():
        whole = np.empty((size, *shapes[name]), dtype=first.dtype)
        at = 0
        for inputs in requests:
            array = inputs[name]
            end = at + array.shape[0]
            if array.shape[1:] != shapes[name]:
                whole[at:end] = array.flat[0]
            whole[(slice(at, end), *map(slice, array.shape[1:]))] = array
            at = end
        if size > rows:
            whole[rows:] = whole[rows - requests[-1][name].shape[0]]
        merged[name] = whole
    return merged


def check_outputs(outputs: Mapping[str, Array], size: int) -> None:
    """:raises NoBatchDimensionError: an output has not one row for each of the batch."""
    for array in outputs.values():
        if array.ndim == 0:
            raise NoBatchDimensionError("Batched output tensor has 0 dimensions")
        if array.shape[0] != size:
            raise NoBatchDimensionError(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                "input tensors"
            )
