"""One measured operation of the sealing benchmark, in a process of its own: prints one line of JSON."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.sealing import EncryptedReader, decrypt_file, encrypt_file
from sealserve.secret import Secret

KEY = Secret(bytes(range(16)))
NODE = 4096
NODES = 96


def resident(field: str) -> int:
    """`VmHWM` (peak) or `VmRSS` of this process, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def cpu_seconds(who: int) -> float:
    """CPU time of this process, or of its children that have ended. (`os.times` counts in hundredths of a second.)"""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def encrypt(source: Path, target: Path, processes: int, digest: bool) -> None:
    with source.open("rb") as plain, target.open("w+b") as sealed:
        encrypt_file(plain, sealed, KEY, "/models/x", processes=processes or None, digest=digest)


def decrypt(source: Path, target: Path, processes: int, digest: bool) -> None:
    with source.open("rb") as sealed, target.open("w+b") as plain:
        decrypt_file(sealed, plain, KEY, processes=processes or None, digest=digest)


def library(size: int, *, decrypting: bool) -> None:
    """The cryptographic calls alone: a new key for every 4 KiB, in memory, nothing read or written."""
    keys = memoryview(os.urandom(16 * NODES))
    plain = memoryview(bytearray(NODES * NODE))
    sealed = memoryview(bytearray(NODES * (NODE + 16)))
    iv = bytes(12)
    steps = [
        (keys[i * 16 : i * 16 + 16], plain[i * NODE :][:NODE], sealed[i * (NODE + 16) :][: NODE + 16])
        for i in range(NODES)
    ]
    for key, clear, hidden in steps:
        AESGCM(key).encrypt_into(iv, clear, None, hidden)
    for _ in range(size // (NODES * NODE)):
        for key, clear, hidden in steps:
            if decrypting:
                AESGCM(key).decrypt_into(iv, hidden, None, clear)
            else:
                AESGCM(key).encrypt_into(iv, clear, None, hidden)


def copy(source: Path, target: Path, _processes: int, _digest: bool) -> None:
    """Reading and writing alone, with the calls that encrypting uses."""
    buffer = memoryview(bytearray(NODES * NODE))
    with source.open("rb", buffering=0) as plain, target.open("w+b", buffering=0) as sealed:
        for start in range(0, source.stat().st_size, len(buffer)):
            got = os.preadv(plain.fileno(), [buffer], start)
            os.pwrite(sealed.fileno(), buffer[:got], start)


OPERATIONS: dict[str, Callable[[Path, Path, int, bool], None]] = {
    "encrypt": encrypt,
    "decrypt": decrypt,
    "library-encrypt": lambda source, *_: library(source.stat().st_size, decrypting=False),
    "library-decrypt": lambda source, *_: library(source.stat().st_size, decrypting=True),
    "copy": copy,
}


def random_reads(source: Path, count: int) -> dict[str, float]:
    """Open a file and read 4 KiB at random places: milliseconds for opening and the first read, and for the others."""
    generator = random.Random(1)
    start = time.perf_counter()
    with EncryptedReader.open(source, KEY) as reader:
        times = []
        for _ in range(count):
            reader.seek(generator.randrange(reader.size - NODE))
            reader.read(NODE)
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    first, *others = (seconds * 1000 for seconds in times)
    others.sort()
    return {"open_and_first_ms": first, "median_ms": others[len(others) // 2], "slowest_ms": others[-1]}


def main(argv: list[str]) -> int:
    operation, source, target, processes, digest = argv
    if operation == "random":
        print(json.dumps(random_reads(Path(source), 400)))
        return 0
    Path(target).unlink(missing_ok=True)
    before, base = cpu_seconds(resource.RUSAGE_SELF) + cpu_seconds(resource.RUSAGE_CHILDREN), resident("VmRSS")
    start = time.perf_counter()
    OPERATIONS[operation](Path(source), Path(target), int(processes), digest == "1")
    wall = time.perf_counter() - start
    after = cpu_seconds(resource.RUSAGE_SELF) + cpu_seconds(resource.RUSAGE_CHILDREN)
    helper = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "wall": wall,
                "cpu": after - before,
                "memory": max(resident("VmHWM") - base, helper - base if helper else 0),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
