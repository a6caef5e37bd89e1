"""Variables that are stored in parts, over several files: each element comes from one part, or nothing is read."""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_bundles import entry, signed, slice_key, table

from sealserve.errors import ModelError
from sealserve.serving import tensor_bundle
from sealserve.serving.model_files import MemoryFiles
from sealserve.serving.tensor_bundle import INDEX_FILE, TensorBundle
from sealserve.serving.tensor_slices import parse_part, parse_slice_key, size_of, within
from sealserve.wire.tensorflow_pb2 import BundleHeaderProto, DataType, TensorSliceProto

SHARDS = 3
WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that nobody wrote has a value that no test writes."""

    def aligned(size):
        return np.full(size + 64, 0xA5, np.uint8)[:size]

    monkeypatch.setattr(tensor_bundle, "aligned", aligned)


def files_of(parts, *, whole=WHOLE, shards=SHARDS, name=b"w", changes=None):
    """A bundle with a variable in ``parts``: extents, and the array that is stored for them."""
    contents = [b""] * shards
    entries = {b"": BundleHeaderProto(num_shards=shards).SerializeToString()}
    entries[name] = entry(whole, 0, size=0, slices=[TensorSliceProto()])
    for index, (extents, array) in enumerate(parts):
        shard = index % shards
        place = {"offset": len(contents[shard]), "shard_id": shard, **((changes or {}) if not index else {})}
        entries[slice_key(name, extents)] = entry(array, **place)
        contents[shard] += array.tobytes()
    files = MemoryFiles()
    with files.add(INDEX_FILE) as file:
        file.write(table(sorted(entries.items())))
    for shard, content in enumerate(contents):
        with files.add(f"variables/variables.data-{shard:05}-of-{shards:05}") as file:
            file.write(content)
    return files


def part_of(array, extents):
    return array[tuple(slice(start, None if length < 0 else start + length) for start, length in extents)]


def parts_of(array, *extents):
    return [(one, np.ascontiguousarray(part_of(array, one))) for one in extents]


def read(files, part=""):
    with files:
        stored = TensorBundle(files).read("w", part)
    return stored.data.view(np.float32).reshape(stored.shape)


ALL = (0, -1)
ROWS = [((0, 1), ALL), ((1, 2), ALL), ((3, 1), ALL)]


def test_parts_in_several_files_become_one_variable():
    assert np.array_equal(read(files_of(parts_of(WHOLE, *ROWS))), WHOLE)
    assert np.array_equal(read(files_of(parts_of(WHOLE, *ROWS)), "4 6 1,3:2,2"), WHOLE[1:4, 2:4])


OVERLAPS = {
    # As many elements as the whole has, but some twice and others not at all.
    "one row twice": [((0, 1), ALL), ((1, 2), ALL), ((1, 1), ALL)],
    "the same part under two keys": [((0, 2), ALL), ((0, 2), (0, 6))],
    "two crossing each other": [((0, 2), ALL), (ALL, (0, 2)), ((0, 2), (2, 2))],
    "all, and a part": [(ALL, ALL), ((0, 1), (0, 1))],
    "a gap": [((0, 1), ALL), ((2, 2), ALL)],
    "nothing": [],
}


@pytest.mark.parametrize("parts", OVERLAPS.values(), ids=OVERLAPS)
def test_parts_that_overlap_or_leave_gaps_are_refused(parts):
    with pytest.raises(ModelError, match=r"not all of it is stored|overlap"):
        read(files_of(parts_of(WHOLE, *parts)))


def test_parts_that_overlap_where_they_are_asked_for_are_refused():
    files = files_of(parts_of(WHOLE, ((0, 2), ALL), ((1, 1), ALL), ((3, 1), ALL)))
    with pytest.raises(ModelError, match="overlap"):
        read(files, "4 6 1,2:-")


@pytest.mark.parametrize(
    ("extents", "says"),
    [
        (((3, -1), ALL), "leaves the whole"),
        (((0, -5), ALL), "leaves the whole"),
        (((0, 5), ALL), "leaves the whole"),
        (((-1, 2), ALL), "leaves the whole"),
        ((ALL,), "dimensions"),
    ],
)
def test_a_part_that_leaves_the_whole_is_refused(extents, says):
    with pytest.raises(ModelError, match=says):
        read(files_of([*parts_of(WHOLE, (ALL, ALL)), (extents, WHOLE[:1])]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": DataType.DT_DOUBLE}, "a part is double, and the whole float"),
        ({"dtype": DataType.DT_STRING}, "a part is string"),
        ({"size": 23}, "elements have 23 bytes"),
        ({"size": 0}, "elements have 0 bytes"),
        ({"size": 1 << 50}, "elements have"),
        ({"shard_id": 7}, "has no variables"),
        ({"offset": 1 << 40}, "cut short"),
        ({"offset": -1}, "lies nowhere"),
    ],
)
def test_a_part_that_is_not_what_the_variable_says_is_refused(changes, says):
    with pytest.raises(ModelError, match=says):
        read(files_of(parts_of(WHOLE, *ROWS), changes=changes))


def test_an_empty_part_and_an_empty_variable_are_read():
    assert np.array_equal(read(files_of(parts_of(WHOLE, *ROWS, ((4, 0), ALL)))), WHOLE)
    assert read(files_of(parts_of(WHOLE, *ROWS)), "4 6 1,0:-").shape == (0, 6)
    empty = np.zeros((0, 3), np.float32)
    assert read(files_of(parts_of(empty, (ALL, ALL)), whole=empty)).shape == (0, 3)
    assert read(files_of([], whole=empty)).shape == (0, 3)


def test_a_shape_for_which_nothing_is_stored_takes_no_memory():
    huge = np.broadcast_to(np.float32(0), (1 << 30, 1 << 20))
    with pytest.raises(ModelError, match="not all of it is stored"):
        read(files_of([(((0, 1), (0, 1)), WHOLE[:1, :1])], whole=huge))


@pytest.mark.parametrize("size", [0, 23, 25, 96])
def test_a_variable_with_other_than_its_elements_is_refused(size):
    entries = [(b"", BundleHeaderProto(num_shards=1).SerializeToString()), (b"w", entry(WHOLE[:1], 0, size=size))]
    with MemoryFiles() as files:
        for name, content in ((INDEX_FILE, table(entries)), ("variables/variables.data-00000-of-00001", bytes(200))):
            with files.add(name) as file:
                file.write(content)
        with pytest.raises(ModelError, match=f"its 6 elements have {size} bytes"):
            TensorBundle(files).read("w")


@pytest.mark.parametrize("count", [1 << 60, 4])
def test_strings_that_are_not_there_take_no_memory(count):
    stored = tensor_bundle.StoredTensor(DataType.DT_STRING, (count,), np.zeros(3, np.uint8))
    with pytest.raises(ModelError, match="malformed"):
        stored.strings()


@st.composite
def grids(draw):
    """A shape, and where it is cut in each dimension."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape]
    return tuple(shape), cuts


def cells(cuts):
    ranges = [[(low, high - low) for low, high in itertools.pairwise(one)] for one in cuts]
    return [tuple(cell) for cell in itertools.product(*ranges)]


@settings(deadline=None)
@given(grids(), st.integers(1, 4), st.data())
def test_whatever_grid_it_is_cut_into_a_variable_is_read_whole_and_in_part(grid, shards, data):
    shape, cuts = grid
    whole = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    stored = data.draw(st.permutations(parts_of(whole, *cells(cuts))))
    assert np.array_equal(read(files_of(stored, whole=whole, shards=shards)), whole)
    starts = [data.draw(st.integers(0, size - 1)) for size in shape]
    wanted = tuple((start, data.draw(st.integers(0, size - start))) for start, size in zip(starts, shape, strict=True))
    text = " ".join(map(str, shape)) + " " + ":".join(f"{start},{length}" for start, length in wanted)
    part = read(files_of(stored, whole=whole, shards=shards), text)
    assert np.array_equal(part, part_of(whole, wanted))


@settings(deadline=None)
@given(grids(), st.data())
def test_whatever_parts_are_stored_no_byte_is_read_that_nobody_wrote(grid, data):
    shape, cuts = grid
    whole = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    parts = data.draw(st.lists(st.sampled_from(cells(cuts)), max_size=8)) + data.draw(
        st.lists(st.tuples(*(st.tuples(st.integers(-1, 6), st.integers(-2, 7)) for _ in shape)), max_size=2)
    )
    stored = [
        (one, np.ascontiguousarray(whole[tuple(slice(max(s, 0), max(s, 0) + n) for s, n in one)])) for one in parts
    ]
    try:
        answer = read(files_of(stored, whole=whole))
    except ModelError:
        return
    covered = np.zeros(shape, int)
    for one in set(parts):
        part_of(covered, one)[...] += 1
    assert (covered == 1).all()
    assert np.array_equal(answer, whole)


GOOD = slice_key(b"name", ((3, 4), ALL))


@settings(deadline=None)
@given(st.binary(max_size=40) | st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)))
def test_any_key_of_a_part_is_read_or_refused(change):
    key = bytearray(GOOD) if isinstance(change, tuple) else bytearray(b"\0" + change)
    if isinstance(change, tuple):
        key[change[0]] = change[1]
    with contextlib.suppress(ValueError, IndexError):
        parse_slice_key(bytes(key))


numbers = st.integers(-(1 << 47), (1 << 47) - 1)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=12), st.lists(st.tuples(numbers, numbers), max_size=5))
def test_a_key_of_a_part_is_read_as_it_was_written(name, extents):
    assert parse_slice_key(slice_key(name, tuple(extents))) == (name, tuple(extents))
    assert len(signed(0)) == 1


@settings(deadline=None)
@given(st.text("0123456789,:- +_x", max_size=30) | st.text(max_size=10))
def test_any_text_of_a_part_is_read_or_refused(text):
    try:
        shape, extents = parse_part(text)
        size = size_of(extents, shape)
    except ValueError:
        return
    assert all(0 <= length <= whole for length, whole in zip(size, shape, strict=True))


extent = st.tuples(st.integers(-2, 6), st.integers(-2, 6))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), extent, extent), max_size=3))
def test_where_parts_overlap_is_where_their_elements_do(dimensions):
    shape = tuple(size for size, _, _ in dimensions)
    wanted, stored = tuple(one for _, one, _ in dimensions), tuple(one for _, _, one in dimensions)
    try:
        overlap = within(wanted, stored, shape)
    except ValueError:
        return
    whole = np.arange(math.prod(shape)).reshape(shape)
    both = np.intersect1d(part_of(whole, wanted), part_of(whole, stored))
    if overlap is None:
        assert not both.size
        return
    there, here, count = overlap
    assert np.array_equal(part_of(whole, wanted)[there].ravel(), both)
    assert np.array_equal(part_of(whole, stored)[here].ravel(), both)
    assert count == both.size
