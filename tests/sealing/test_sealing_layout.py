"""The arithmetic of the format, against a plain simulation and against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.sealing import layout


def test_nodes_lie_as_in_a_plain_walk_through_the_file() -> None:
    position, data, mht = 1, 0, 0
    while data < 40_000:
        if data == mht * 96:
            assert layout.mht_offset(mht) == position * 4096
            mht += 1
            position += 1
        assert layout.data_offset(data) == position * 4096
        data += 1
        position += 1


@pytest.mark.parametrize(
    ("size", "nodes", "groups"),
    [
        (0, 0, 0),
        (1, 0, 0),
        (3072, 0, 0),
        (3073, 1, 1),
        (7168, 1, 1),
        (7169, 2, 1),
        (3072 + 96 * 4096, 96, 1),
        (3072 + 96 * 4096 + 1, 97, 2),
        (3072 + 33 * 96 * 4096, 3168, 33),
        (3072 + 33 * 96 * 4096 + 1, 3169, 34),  # the first MHT node of the third level
        (4096 * 1_000_000, 1_000_000, 10_417),
        (4096 * 1_000_000 - 1024, 999_999, 10_417),
    ],
)
def test_sizes_around_the_borders(size: int, nodes: int, groups: int) -> None:
    assert layout.data_nodes(size) == nodes
    assert layout.groups(size) == groups
    assert layout.sealed_size(size) == 4096 * (1 + nodes + groups)


def test_every_mht_node_hangs_in_exactly_one_slot() -> None:
    count = 10_417
    seen = [child for mht in range(count) for child in layout.mht_children(mht, count)]
    assert seen == list(range(1, count))
    for mht in range(1, count):
        parent, slot = layout.mht_parent(mht)
        assert layout.mht_children(parent, count)[slot] == mht


def test_a_million_nodes_need_four_levels() -> None:
    mht, levels = layout.groups(4096 * 1_000_000) - 1, 1
    while mht:
        mht, _ = layout.mht_parent(mht)
        levels += 1
    assert levels == 4


@given(st.integers(0, layout.MAX_SIZE))
def test_the_last_node_ends_where_the_file_ends(size: int) -> None:
    nodes = layout.data_nodes(size)
    if nodes:
        assert layout.data_offset(nodes - 1) + 4096 == layout.sealed_size(size)
        assert 0 < size - layout.HEAD - (nodes - 1) * 4096 <= 4096
    else:
        assert layout.sealed_size(size) == 4096


def test_slots_do_not_overlap() -> None:
    taken = [i for slot in range(32) for i in range(*layout.child_slot(slot).indices(4096))]
    assert taken == list(range(3072, 4096))
