"""The identity of a simulated enclave: what stands in for MRENCLAVE and MRSIGNER where there is no SGX."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sealserve
from sealserve.errors import InputError
from sealserve.files import read_file

SIMULATED_SIGNER = hashlib.sha256(b"sealserve simulated build: SIMULATED, NO PROTECTION").digest()

_LABEL = b"sealserve simulated enclave measurement, version 1\0"
_SUFFIXES = frozenset({".py", ".binpb"})
# Python would import these in the place of a source, or beside it, and sealserve has none.
_COMPILED = frozenset({".so", ".pyd", ".pyc", ".pyo", ".pth"})
_FILE_LIMIT = 64 << 20


@dataclass(frozen=True)
class SimulatedEnclave:
    """What a simulated quote says about the enclave.

    :param mrenclave: 32 bytes. :param mrsigner: 32 bytes.
    :param isv_prod_id: 0..65535. :param isv_svn: 0..65535.
    :param debug: the debug attribute.
    """

    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int = 0
    isv_svn: int = 0
    debug: bool = False

    def __post_init__(self) -> None:
        if len(self.mrenclave) != 32 or len(self.mrsigner) != 32:
            raise ValueError("MRENCLAVE and MRSIGNER have 32 bytes")
        if not (0 <= self.isv_prod_id < 1 << 16 and 0 <= self.isv_svn < 1 << 16):
            raise ValueError("ISV_PROD_ID and ISV_SVN are 16-bit numbers")


def measure_simulated_enclave(settings: Mapping[str, str] | None = None) -> SimulatedEnclave:
    """Measure this program the way a simulated enclave reports itself.

    SHA-256 over the files of the ``sealserve`` package as it is imported (``*.py`` and ``*.binpb``: relative name,
    length, content, in the order of the names) and over ``settings`` (in the order of the keys). Compiled modules and
    linked directories inside the package are refused; ``__pycache__`` is left out.

    It covers: our own code and message descriptors, and the settings given. It does not cover: the Python interpreter,
    its standard library, other packages, shared libraries, the kernel, environment variables and arguments that are
    not among the settings, or anything that changes after the files were read. And nobody but this process itself
    computes it, so it says what an honest process would be, and proves nothing about a dishonest one. A real MRENCLAVE
    is computed by the processor over every page that is loaded.

    :raises InputError: a file of the package cannot be read, or it holds code that is not measured.
    """
    digest = hashlib.sha256(_LABEL)
    for name, path in _package_files():
        content = read_file(path, limit=_FILE_LIMIT)
        _absorb(digest, b"file", name.encode(), content)
    for key, value in sorted((settings or {}).items()):
        _absorb(digest, b"setting", key.encode(), value.encode())
    return SimulatedEnclave(mrenclave=digest.digest(), mrsigner=SIMULATED_SIGNER)


def _absorb(digest: hashlib._Hash, *fields: bytes) -> None:
    """Hash fields with their lengths, so that no two lists of fields give the same bytes."""
    for field in fields:
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)


def _package_files() -> Iterator[tuple[str, Path]]:
    roots = [Path(entry) for entry in sealserve.__path__]
    if len(roots) != 1 or not roots[0].is_dir():
        raise InputError("sealserve is not imported from one directory, so that it cannot be measured")
    found = {}
    for path in roots[0].rglob("*"):
        if "__pycache__" in path.relative_to(roots[0]).parts:
            continue
        if path.suffix in _COMPILED or (path.is_symlink() and path.is_dir()):
            raise InputError(
                f"{path} could be imported as a part of sealserve, and is not measured",
                hint="Remove it, or install sealserve again.",
            )
        if path.suffix in _SUFFIXES and path.is_file():
            found[path.relative_to(roots[0]).as_posix()] = path
    yield from sorted(found.items())
