"""Paths as Gramine normalises and embeds them."""

from __future__ import annotations

from sealserve.sealing.errors import EmbeddedPathError
from sealserve.sealing.layout import MAX_PATH


def normalise_path(path: str) -> str:
    """Collapse ``//``, ``.`` and ``..`` as Gramine does before it embeds or compares a path.

    A leading ``../`` is kept in a relative path and dropped in an absolute one; relative and absolute stay apart; links
    on disk are not looked at. Nothing left of a relative path gives ``""`` (Gramine, ``get_norm_path``).
    """
    kept: list[str] = []
    absolute = path.startswith("/")
    for part in path.split("/"):
        if part in {"", "."}:
            continue
        if part != "..":
            kept.append(part)
        elif kept and kept[-1] != "..":
            kept.pop()
        elif not absolute:
            kept.append("..")
    return ("/" if absolute else "") + "/".join(kept)


def embeddable(path: str) -> bytes:
    """The normalised ``path`` as the bytes that the metadata node holds.

    :raises EmbeddedPathError: it is empty, has a NUL, is not UTF-8, or has more than 771 bytes.
    """
    normal = normalise_path(path)
    if not normal or "\0" in normal:
        raise EmbeddedPathError(
            f"the path {path!r} cannot be embedded in an encrypted file",
            hint="Give the path under which the enclave will open the file.",
        )
    try:
        encoded = normal.encode()
    except UnicodeEncodeError:
        raise EmbeddedPathError(f"the path {path!r} is not UTF-8", hint="Rename the file.") from None
    if len(encoded) > MAX_PATH:
        raise EmbeddedPathError(
            f"the path {normal[:40]!r}... has {len(encoded)} bytes; an encrypted file holds at most {MAX_PATH}",
            hint="Choose a shorter mount path or shorter file names.",
        )
    return encoded


def join(mount: str, name: str) -> str:
    """The path of the file ``name`` of a directory that the enclave sees at ``mount``."""
    return normalise_path(f"{mount}/{name}")
