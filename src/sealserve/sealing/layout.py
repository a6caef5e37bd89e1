"""Where things lie in one of Gramine's encrypted files ("protected files"): arithmetic only.

A file is a row of 4,096-byte nodes. Node 0 is the metadata node; node 1 is the root of the Merkle hash tree (MHT node
0). Each MHT node is followed by its 96 data nodes, then comes the next MHT node: a *group* of 97 nodes. MHT node
*m* > 0 hangs under MHT node (*m* - 1) div 32. The first 3,072 bytes of the plaintext live in the metadata node.

Source of the format: Gramine, ``common/src/protected_files/protected_files_format.h``.
"""

from __future__ import annotations

from typing import Final, Literal

FormatVersion = Literal[1, 2]

NODE: Final = 4096
"""Bytes of a node, on disk and in the clear."""
TAG: Final = 16
KEY: Final = 16
ENTRY: Final = KEY + TAG
"""Bytes of an entry of an MHT node: the key and the tag of a node below."""
DATA_PER_MHT: Final = 96
CHILDREN_PER_MHT: Final = 32
GROUP: Final = DATA_PER_MHT + 1
"""Nodes of a group: an MHT node and its data nodes."""
GROUP_PLAIN: Final = DATA_PER_MHT * NODE
"""Bytes of plaintext in a full group."""
DATA_ENTRIES: Final = DATA_PER_MHT * ENTRY
"""Bytes of an MHT node's entries of data nodes; the entries of its children follow."""
HEAD: Final = 3072
"""Bytes of the plaintext's beginning that the metadata node holds."""
PATH_FIELD: Final = 772
MAX_PATH: Final = PATH_FIELD - 1
MAX_SIZE: Final = (1 << 63) - 1
"""Largest plaintext, in bytes: file offsets are signed 64-bit numbers."""


def data_nodes(size: int) -> int:
    """How many data nodes a plaintext of ``size`` bytes has."""
    return max(0, -(-(size - HEAD) // NODE))


def groups(size: int) -> int:
    """How many groups, and so MHT nodes, a plaintext of ``size`` bytes has."""
    return -(-data_nodes(size) // DATA_PER_MHT)


def sealed_size(size: int) -> int:
    """Bytes of the encrypted file of a plaintext of ``size`` bytes."""
    return (1 + groups(size) + data_nodes(size)) * NODE


def mht_offset(mht: int) -> int:
    """Where MHT node ``mht`` begins, in bytes."""
    return (1 + GROUP * mht) * NODE


def data_offset(data: int) -> int:
    """Where data node ``data`` begins, in bytes."""
    return (2 + data + data // DATA_PER_MHT) * NODE


def plain_offset(mht: int) -> int:
    """Where the plaintext of group ``mht`` begins, in bytes of the plaintext."""
    return HEAD + mht * GROUP_PLAIN


def mht_parent(mht: int) -> tuple[int, int]:
    """The parent of MHT node ``mht`` > 0, and in which of its 32 slots it hangs."""
    return divmod(mht - 1, CHILDREN_PER_MHT)


def mht_children(mht: int, count: int) -> range:
    """The MHT nodes under ``mht`` in a file with ``count`` MHT nodes."""
    first = CHILDREN_PER_MHT * mht + 1
    return range(first, min(first + CHILDREN_PER_MHT, count)) if first < count else range(0)


def child_slot(slot: int) -> slice:
    """Where the entry of the child in ``slot`` lies in a decrypted MHT node."""
    return slice(DATA_ENTRIES + slot * ENTRY, DATA_ENTRIES + (slot + 1) * ENTRY)
