"""Images made by hand: OCI archives (https://github.com/opencontainers/image-spec), which containerd imports.

The same files give the same image: owners are root, and dates are none.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cluster.builds import cache_directory, locked

REGISTRY = "registry.test"
"""Of every image here. There is none of this name: all that runs was imported."""

_KEPT_SECONDS = 7 * 24 * 3600
_TYPE = "application/vnd.oci.image"


@dataclass(frozen=True)
class Layer:
    """A layer: a tar file in the cache. :ivar digest: of the file, which is not compressed."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class Entry:
    """A file of a layer. :ivar source: its content; None: an empty directory. :ivar link: or what it is a link to."""

    source: Path | bytes | None = None
    mode: int | None = None
    link: str | None = None


@dataclass(frozen=True)
class Image:
    """An image. :ivar user: ``uid:gid``. :ivar environment: ``NAME=value``. :ivar directory: that programs start in."""

    name: str
    layers: Sequence[Layer]
    entry_point: Sequence[str]
    command: Sequence[str] = ()
    user: str = ""
    environment: Sequence[str] = ()
    directory: str = "/"
    stop_signal: str = "SIGTERM"


def cached_layer(key: str, entries: Iterable[tuple[str, Entry]]) -> Layer:
    """A layer with these files, made when it is not in the cache.

    :param key: what it is made from, in a few words; the same key has the same files.
    :param entries: path → file, taken only if the layer has to be made.
    """
    directory = cache_directory() / "layers"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / sha256(key.encode()).hexdigest()[:16]
    digest = path.with_suffix(".digest")
    with locked(path.with_suffix(".lock")):
        if not digest.exists():
            _write_tar(path, entries)
            digest.write_text(_digest_of(path))
        for file in (path, digest):
            file.touch()
    _remove_unused(directory)
    return Layer(path, digest.read_text(), path.stat().st_size)


def write_archive(image: Image, path: Path) -> None:
    """Write the image's archive, in which it is called by its reference."""
    configuration, manifest = _configuration(image), _manifest(image)
    described = _descriptor(manifest, "manifest.v1+json")
    described["annotations"] = {"io.containerd.image.name": reference(image)}
    index = {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json", "manifests": [described]}
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        for blob in (configuration, manifest):
            _add(archive, f"blobs/sha256/{sha256(blob).hexdigest()}", blob)
        for layer in image.layers:
            _add(archive, f"blobs/sha256/{layer.digest.removeprefix('sha256:')}", layer.path)


def reference(image: Image) -> str:
    """How pods name the image: by digest."""
    return f"{REGISTRY}/{image.name}@sha256:{sha256(_manifest(image)).hexdigest()}"


def _configuration(image: Image) -> bytes:
    content: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": list(image.entry_point),
            "Cmd": list(image.command),
            "User": image.user,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *image.environment],
            "WorkingDir": image.directory,
            "StopSignal": image.stop_signal,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in image.layers]},
    }
    return json.dumps(content).encode()


def _manifest(image: Image) -> bytes:
    layers = [
        {"mediaType": f"{_TYPE}.layer.v1.tar", "digest": layer.digest, "size": layer.size} for layer in image.layers
    ]
    content = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": _descriptor(_configuration(image), "config.v1+json"),
        "layers": layers,
    }
    return json.dumps(content).encode()


def tree(source: Path, target: str) -> Iterable[tuple[str, Entry]]:
    """The files of a directory, as they are to lie under ``target``."""
    for path in sorted(source.rglob("*")):
        name = f"{target}/{path.relative_to(source)}"
        if path.is_symlink():
            yield name, Entry(link=str(path.readlink()))
        else:
            yield name, Entry(None if path.is_dir() else path)


def _remove_unused(directory: Path) -> None:
    """Remove layers that nobody has asked for in a week: each change of sealserve's code makes one."""
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if path.suffix != ".lock" and time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                path.unlink()


def _write_tar(path: Path, entries: Iterable[tuple[str, Entry]]) -> None:
    part = path.with_suffix(".part")
    with tarfile.open(part, "w") as archive:
        for name, entry in entries:
            _add_entry(archive, name.lstrip("/"), entry)
    part.replace(path)


def _add_entry(archive: tarfile.TarFile, name: str, entry: Entry) -> None:
    if entry.link is not None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
        archive.addfile(info)
    elif entry.source is None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, entry.mode or 0o755
        archive.addfile(info)
    else:
        _add(archive, name, entry.source, entry.mode)


def _add(archive: tarfile.TarFile, name: str, source: Path | bytes, mode: int | None = None) -> None:
    info = tarfile.TarInfo(name)
    if isinstance(source, bytes):
        info.size, info.mode = len(source), mode or 0o644
        archive.addfile(info, io.BytesIO(source))
        return
    status = source.stat()
    info.size = status.st_size
    info.mode = mode or (0o755 if status.st_mode & 0o111 else 0o644)
    with source.open("rb") as file:
        archive.addfile(info, file)


def _descriptor(content: bytes, kind: str) -> dict[str, Any]:
    return {
        "mediaType": f"{_TYPE}.{kind}",
        "digest": f"sha256:{sha256(content).hexdigest()}",
        "size": len(content),
    }


def _digest_of(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"
