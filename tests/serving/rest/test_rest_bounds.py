"""What a small body could cost, it does not."""

from __future__ import annotations

import numpy as np
import pytest

from sealserve.serving.errors import RequestError
from sealserve.serving.rest.json_text import parse_json
from sealserve.serving.rest.kserve_tensors import _shape
from sealserve.serving.rest.tensors import make_array


@pytest.mark.timeout(20)
def test_a_shape_of_a_million_sizes_is_refused_at_once() -> None:
    body = b"[" + b"9," * 1_000_000 + b"9]"
    with pytest.raises(RequestError, match="more than 64 dimensions"):
        _shape(parse_json(body), "x")
    with pytest.raises(RequestError, match="more than 64 dimensions"):
        _shape([9] * 1_000_000, "x")


@pytest.mark.parametrize("body", [b"[" + b"1," * 100_000 + b"1]", b"[" + b'"abc",' * 50_000 + b'""]', b"0.," * 100_000])
def test_memory_is_asked_for_before_numbers_are_read(body: bytes) -> None:
    class FullError(Exception):
        pass

    def take(size: int) -> None:
        assert size >= body.count(b",") * 80
        raise FullError

    with pytest.raises(FullError):
        parse_json(body, take=take)


@pytest.mark.parametrize("depth", [65, 480, 900])
def test_lists_inside_lists_beyond_64_are_refused_for_what_they_are(depth: int) -> None:
    nested: object = 1.0
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(RequestError, match="at most 64 dimensions"):
        make_array(nested, np.dtype("f4"))
    inner = parse_json(b"[" * 3 + b"1.0," * 2000 + b"1.0" + b"]" * 3)
    assert make_array(inner, np.dtype("f4")).shape == (1, 1, 2001)
