"""The sealserve that renders, as a wheel (PEP 427): an image runs the very code that rendered it.

The same files give the same wheel, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path

import sealserve
from sealserve import __version__
from sealserve.errors import MachineError

_WHEEL = "Wheel-Version: 1.0\nGenerator: sealserve\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip archive can say


def wheel_name() -> str:
    """The wheel's file name."""
    return f"sealserve-{__version__}-py3-none-any.whl"


def build_wheel() -> bytes:
    """The installed package as a wheel.

    :raises MachineError: the installation is not complete.
    """
    information = f"sealserve-{__version__}.dist-info"
    files = {f"sealserve/{name}": content for name, content in _package_files()}
    for name, content in (("METADATA", _metadata("METADATA")), ("entry_points.txt", _metadata("entry_points.txt"))):
        files[f"{information}/{name}"] = content
    files[f"{information}/WHEEL"] = _WHEEL.encode()
    record = f"{information}/RECORD"
    files[record] = "".join(f"{name},{_digest(files[name])},{len(files[name])}\n" for name in files).encode()
    files[record] += f"{record},,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def _package_files() -> list[tuple[str, bytes]]:
    root = Path(sealserve.__path__[0])
    names = sorted(
        path.relative_to(root)
        for path in root.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
    )
    return [(name.as_posix(), (root / name).read_bytes()) for name in names]


def _metadata(name: str) -> bytes:
    try:
        text = metadata.distribution("sealserve").read_text(name)
    except metadata.PackageNotFoundError:
        text = None
    if text is None:
        raise MachineError("sealserve is not installed as a package, only found", hint="Install it with pip.")
    return text.encode()


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
