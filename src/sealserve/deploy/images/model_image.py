"""The sealed model as an OCI image with its files and nothing else, for image volumes of Kubernetes.

It is made here and by no container engine: the same sealed model gives the same bytes, so that its digest names it.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import BinaryIO

from sealserve.deploy.images.oci_archive import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Blob, Image, compress_layer
from sealserve.errors import InputError
from sealserve.files import explain_os_error


def model_image(sealed: Path, work: Path) -> Image:
    """An image with the files of a sealed model, which everybody in a container can read.

    :param work: a directory for its layer, for as long as the image is used.
    :raises InputError: there is no sealed model, or what is no file in it.
    """
    try:
        plain = work / "model.tar"
        with plain.open("wb") as file:
            _write_tar(sealed, file)
        with plain.open("rb") as file:
            content = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        layer = compress_layer(lambda: plain.open("rb"), work / "model.tar.gz")
        plain.unlink()
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [content]},
            }
        ).encode()
        (work / "config.json").write_bytes(config)
    except OSError as error:
        raise explain_os_error(error, error.filename or work, "use") from error
    blob = Blob(f"sha256:{hashlib.sha256(config).hexdigest()}", len(config), work / "config.json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": blob.digest, "size": blob.size},
        "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size}],
    }
    return Image(json.dumps(manifest).encode(), (blob, layer))


def _write_tar(sealed: Path, file: BinaryIO) -> None:
    paths = sorted(sealed.rglob("*")) if sealed.is_dir() else []
    if not paths:
        raise InputError(f"there is no sealed model in {sealed}", hint="`sealserve prepare` seals it.")
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in paths:
            entry = tarfile.TarInfo(str(path.relative_to(sealed)))
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise InputError(f"{path} is neither a file nor a directory, and no part of a sealed model")
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            else:
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as content:
                    tar.addfile(entry, content)
