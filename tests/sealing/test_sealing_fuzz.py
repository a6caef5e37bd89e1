"""A fuzz target: whatever bytes a file has, with or without the right key, reading it ends in plaintext that was
authenticated or in a typed error, within bounded memory."""

from __future__ import annotations

import io
import os
import random
import time

import pytest
from sealing_files import GROUP, KEY, pattern, sealed

from sealserve.errors import SealError
from sealserve.sealing import EncryptedReader
from sealserve.sealing.metadata import Metadata, make_metadata, open_metadata
from sealserve.secret import Secret

_PLAINS = [pattern(size, size) for size in (0, 5, 3072, 3073, 20_000, 3072 + GROUP + 5000)]
_CORPUS = [(plain, sealed(plain, version=1 + index % 2)) for index, plain in enumerate(_PLAINS)]


def mutate(data: bytearray, generator: random.Random) -> None:
    """Change a file a little, as somebody without the key can."""
    match generator.randrange(7):
        case 0:
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        case 1:
            data[generator.randrange(min(64, len(data)))] = generator.randrange(256)
        case 2:
            del data[generator.randrange(len(data)) :]
        case 3:
            data += bytes(generator.randrange(3 * 4096))
        case 4:
            first, second = (generator.randrange(-(-len(data) // 4096)) * 4096 for _ in range(2))
            data[first : first + 4096], data[second : second + 4096] = (
                data[second : second + 4096],
                data[first : first + 4096],
            )
        case 5:
            other = generator.choice(_CORPUS)[1]
            at = generator.randrange(-(-len(data) // 4096)) * 4096
            data[at : at + 4096] = other[at : at + 4096]
        case _:
            start = generator.randrange(len(data))
            data[start : start + generator.randrange(1, 64)] = generator.randbytes(generator.randrange(64))


def reheader(data: bytearray, generator: random.Random) -> None:
    """Change the header as somebody with the key can: everything below it is then his, and no plaintext is promised."""
    _, found = open_metadata(bytes(data), Secret(KEY))
    size = generator.choice([found.size, generator.getrandbits(64), generator.randrange(1 << 20), len(data)])
    changed = Metadata(
        generator.choice([found.path, generator.randbytes(772)]),
        size,
        generator.choice([found.root_key, generator.randbytes(16)]),
        generator.choice([found.root_tag, generator.randbytes(16)]),
        found.head,
    )
    data[:4096] = make_metadata(changed, Secret(KEY), generator.choice([1, 2]))


def one_round(generator: random.Random) -> bool:
    """Read a changed file here and there; whether it opened."""
    plain, good = generator.choice(_CORPUS)
    data = bytearray(good)
    trusted = generator.random() < 0.8
    if not trusted:
        reheader(data, generator)
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        if data:
            mutate(data, generator)
    try:
        reader = EncryptedReader(io.BytesIO(bytes(data)), Secret(KEY), allow_trailing=generator.random() < 0.3)
    except SealError:
        return False
    assert reader.size <= max(3072, len(data))
    for _ in range(4):
        position, length = generator.randrange(len(plain) + 5000), generator.randrange(10_000)
        reader.seek(position)
        try:
            found = reader.read(length)
        except SealError:
            continue
        # Another file of the corpus under the same key opens too: the path is not checked here.
        assert not trusted or any(found == p[position : position + length] for p in _PLAINS)
    return True


def run(seconds: float, seed: int) -> None:
    generator = random.Random(seed)
    end, rounds, opened = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        opened += one_round(generator)
        rounds += 1
    assert rounds > 100
    assert 0 < opened < rounds, "the mutations must be neither all harmless nor all fatal"


def test_a_short_run_of_the_fuzz_target_finds_nothing() -> None:
    run(2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_long_run_of_the_fuzz_target_finds_nothing() -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    run(300, seed)
