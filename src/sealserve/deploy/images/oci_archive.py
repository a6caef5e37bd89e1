"""An image as one file: an OCI image layout in a tar (image specification 1.1, "image-layout"), as engines save it.

What is written here also has Docker's ``manifest.json``, and says the image's name twice: with its tag, and with its
digest. containerd (kind, k3s, kubeadm, minikube) then knows the image by the digest that pods name, as if it had come
from a registry. https://github.com/opencontainers/image-spec, https://github.com/containerd/containerd (``ctr images
import``).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sealserve.deploy.images.registry import Reference
from sealserve.errors import InputError, MachineError
from sealserve.files import atomic_writer, explain_os_error

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
KIND: Final = "dev.sealserve.kind"
"""Annotation of an image in an archive: what it is for."""

_INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_PLAIN_LAYERS: Final = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")
_NAME: Final = "io.containerd.image.name"
_LARGEST_DOCUMENT: Final = 4 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHUNK: Final = 1 << 20
_LEVEL: Final = 6

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Blob:
    """Bytes that an image names by their digest: part of a file here."""

    digest: str
    size: int
    path: Path
    offset: int = 0

    def open(self) -> io.BufferedReader:
        """Its bytes, from the first on; nothing behind its last."""
        return io.BufferedReader(_Part(self.path, self.offset, self.size), _CHUNK)

    def read(self) -> bytes:
        """All of it. :raises InputError: it is no document of an image."""
        if self.size > _LARGEST_DOCUMENT:
            raise InputError(f"{self.path} has a manifest of {self.size} bytes, more than registries take")
        with self.open() as file:
            return file.read()


@dataclass(frozen=True)
class Image:
    """An image of one platform, for Linux.

    :ivar manifest: its bytes; their SHA-256 is its digest. :ivar blobs: configuration and layers, as it names them.
    :ivar kind: what it is for, if an archive says so.
    """

    manifest: bytes
    blobs: tuple[Blob, ...]
    name: str | None = None
    kind: str | None = None

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)


def read_archive(path: Path, work: Path) -> Image:
    """The image in an archive of a container engine, or of :func:`write_archive`. Layers are compressed as needed.

    :param work: a directory for compressed layers; the image needs both for as long as it is used.
    :raises InputError: it is no such archive, is damaged, or holds several images.
    """
    try:
        members = _members(path)
        index = _document(members, path, "index.json")
        descriptor = _only_image(index, members, path)
        manifest = _named(members, path, descriptor)
        document = _parsed(manifest, path)
        blobs = [_blob(members, path, found) for found in (document["config"], *document["layers"])]
        for blob in blobs:
            _check(blob, path)
        manifest, blobs = _compressed(document, manifest, blobs, work)
    except (KeyError, TypeError, AttributeError):
        raise _damaged(path) from None
    except OSError as error:
        raise explain_os_error(error, error.filename or path, "use") from error
    annotations = descriptor.get("annotations") or {}
    name, kind = annotations.get(_NAME), annotations.get(KIND)
    if not isinstance(name, str | None) or not isinstance(kind, str | None):
        raise _damaged(path)
    return Image(manifest, tuple(blobs), name, kind)


def write_archive(image: Image, reference: Reference, output: Path, *, kind: str) -> None:
    """Write an image to a file that engines and containerd take. The same image gives the same bytes.

    :raises InputError: the file cannot be written. :raises MachineError: the disk is full.
    """
    descriptor = {"mediaType": MANIFEST_TYPE, "digest": image.digest, "size": len(image.manifest)}
    names = (f"{reference.full}:{reference.tag}", f"{reference.full}@{image.digest}")
    tag = {"org.opencontainers.image.ref.name": reference.tag}
    annotations = ({_NAME: names[0], **tag, KIND: kind}, {_NAME: names[1], KIND: kind})
    index = {
        "schemaVersion": 2,
        "mediaType": _INDEX_TYPES[0],
        "manifests": [{**descriptor, "annotations": said} for said in annotations],
    }
    config, *layers = (_member(blob.digest) for blob in image.blobs)
    docker = [{"Config": config, "RepoTags": [names[0]], "Layers": layers}]
    texts = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        "manifest.json": json.dumps(docker).encode(),
        _member(image.digest): image.manifest,
    }
    with atomic_writer(output) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in texts.items():
            tar.addfile(_entry(name, len(content)), io.BytesIO(content))
        for blob in {blob.digest: blob for blob in image.blobs}.values():
            with blob.open() as content_of_blob:
                tar.addfile(_entry(_member(blob.digest), blob.size), content_of_blob)


def compress_layer(open_tar: Callable[[], io.BufferedReader], path: Path) -> Blob:
    """Compress a layer into a file, always to the same bytes."""
    with open_tar() as source, path.open("wb") as file:
        with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
            shutil.copyfileobj(source, packed, _CHUNK)
        size = file.tell()
    return Blob(_digest(lambda: path.open("rb")), size, path)


@contextmanager
def working_directory() -> Iterator[Path]:
    """A directory for what is too large for memory; it goes with the block.

    :raises MachineError: the disk is full.
    """
    try:
        directory = tempfile.TemporaryDirectory(prefix="sealserve-image-")
    except OSError as error:
        raise explain_os_error(error, tempfile.gettempdir(), "write") from error
    with directory as name:
        yield Path(name)


class _Part(io.RawIOBase):
    """A part of a file."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb")
        self._file.seek(offset)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(self._left, len(buffer)))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Name → offset and size of the files in a tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {
                member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar if member.isreg()
            }
    except tarfile.TarError:
        raise InputError(f"{path} is no archive of an image", hint="`sealserve image save` writes one.") from None


def _document(members: Mapping[str, tuple[int, int]], path: Path, name: str) -> Any:
    if name not in members:
        if "manifest.json" in members:
            raise MachineError(
                f"{path} is an archive of Docker before version 25", hint="Update Docker, or use Podman or Buildah."
            )
        raise InputError(f"{path} is no archive of an image", hint="`sealserve image save` writes one.")
    offset, size = members[name]
    return _parsed(Blob("", size, path, offset).read(), path)


def _parsed(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise _damaged(path) from None


def _only_image(index: Any, members: Mapping[str, tuple[int, int]], path: Path) -> dict[str, Any]:
    """The descriptor of the one image that an index leads to, attestations of builders aside."""
    found: dict[str, dict[str, Any]] = {}
    for descriptor in index["manifests"]:
        platform = descriptor.get("platform") or {}
        if platform.get("os") == "unknown":
            continue
        if descriptor["mediaType"] in _INDEX_TYPES:
            inner = _only_image(_parsed(_named(members, path, descriptor), path), members, path)
            found.setdefault(inner["digest"], {**inner, "annotations": descriptor.get("annotations")})
        else:
            found.setdefault(descriptor["digest"], descriptor)
    if len(found) != 1:
        raise InputError(f"{path} holds {len(found)} images, and one is wanted", hint="Save one image of one platform.")
    return next(iter(found.values()))


def _blob(members: Mapping[str, tuple[int, int]], path: Path, descriptor: Any) -> Blob:
    digest = descriptor["digest"]
    if not _DIGEST.fullmatch(digest) or _member(digest) not in members:
        raise _damaged(path)
    offset, size = members[_member(digest)]
    return Blob(digest, size, path, offset)


def _named(members: Mapping[str, tuple[int, int]], path: Path, descriptor: Any) -> bytes:
    """The document that a descriptor names. No index can name itself."""
    blob = _blob(members, path, descriptor)
    _check(blob, path)
    return blob.read()


def _check(blob: Blob, path: Path) -> None:
    if _digest(blob.open) != blob.digest:
        raise _damaged(path)


def _digest(open_blob: Callable[[], io.BufferedReader]) -> str:
    with open_blob() as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _compressed(document: Any, manifest: bytes, blobs: list[Blob], work: Path) -> tuple[bytes, list[Blob]]:
    """Docker saves layers as they lie on its disk: in a registry they would be three times as large."""
    if not any(layer["mediaType"] in _PLAIN_LAYERS for layer in document["layers"]):
        return manifest, blobs
    config, *layers = blobs
    for number, layer in enumerate(document["layers"]):
        if layer["mediaType"] in _PLAIN_LAYERS:
            layers[number] = compress_layer(layers[number].open, work / f"layer-{number}")
            layer.update(mediaType=LAYER_TYPE, digest=layers[number].digest, size=layers[number].size)
    return json.dumps(document).encode(), [config, *layers]


def _member(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged, or no archive of an image", hint="Save or build the image again.")
