"""Putting an image into a registry (OCI distribution specification 1.1, "push"), whoever built it.

Layers go first, and those that the registry has are not sent again; the manifest comes last, so that a push that is
interrupted leaves the tag as it was. In the end the registry is asked what it has under the tag.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sealserve.deploy.images.credentials import find_credentials
from sealserve.deploy.images.oci_archive import MANIFEST_TYPE, Blob, Image, Progress
from sealserve.deploy.images.registry import Reference, digest_of
from sealserve.deploy.images.registry_client import (
    Body,
    RegistryClient,
    RegistryError,
    RegistryRefusedError,
    address_of,
    connections,
)
from sealserve.errors import TrustError

_LARGEST_ANSWER: Final = 1 << 20


class DigestChangedError(TrustError):
    """A registry has another image under a tag than the one that was just put there."""


def push(
    image: Image,
    reference: Reference,
    *,
    ca: Path | None = None,
    insecure_http: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> str:
    """Put an image into a registry, under the reference's tag, with the login that container engines have for it.

    :param ca: PEM file of the authorities that may certify the registry; the system's if not given.
    :param insecure_http: talk to the registry without TLS: whoever is between reads the password and the image.
    :param progress: told bytes done and all bytes.
    :returns: the digest under which the registry has it.
    :raises RegistryError: the registry does not answer, or has a fault. :raises RegistryRefusedError: it does not take
        the image from whoever asks. :raises DigestChangedError: somebody else put another one under the tag.
    """
    address = address_of(reference.host)
    with connections(address, ca=ca) as pool:
        client = RegistryClient(
            pool,
            address,
            insecure_http=insecure_http,
            credentials=find_credentials(reference.host, reference.path),
            scope=f"repository:{reference.path}:pull,push",
        )
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            progress(done, image.size)

        for blob in image.blobs:
            _put_blob(client, reference, blob, count)
        body = Body(len(image.manifest), lambda: io.BytesIO(image.manifest))
        manifest = _manifest_type(image)
        path = f"/v2/{reference.path}/manifests/{quote(reference.tag)}"
        answer, said = client.ask("PUT", path, _LARGEST_ANSWER, body=body, headers={"Content-Type": manifest})
        _judge(answer, said, reference, 201)
        found = digest_of(client, reference)
    if found != image.digest:
        raise DigestChangedError(
            f"{reference.given} in the registry is {found}, and {image.digest} was put there",
            hint="Somebody pushed to the same tag meanwhile, or the registry changes images. Use a tag of your own.",
        )
    return found


def _manifest_type(image: Image) -> str:
    return str(json.loads(image.manifest).get("mediaType", MANIFEST_TYPE))


def _put_blob(client: RegistryClient, reference: Reference, blob: Blob, count: Callable[[int], None]) -> None:
    answer, _ = client.ask("HEAD", f"/v2/{reference.path}/blobs/{blob.digest}", 0)
    if answer.status == 200:
        count(blob.size)
        return
    nothing = Body(0, io.BytesIO)
    answer, said = client.ask("POST", f"/v2/{reference.path}/blobs/uploads/", _LARGEST_ANSWER, body=nothing)
    _judge(answer, said, reference, 202)
    location = answer.headers.get("Location", "")
    if not location:
        raise RegistryError(f"{reference.host} does not say where a layer goes")
    url = f"{location}{'&' if '?' in location else '?'}digest={quote(blob.digest)}"
    headers = {"Content-Type": "application/octet-stream"}
    body = Body(blob.size, lambda: _Counted(blob.open(), count))
    answer, said = client.ask("PUT", url, _LARGEST_ANSWER, body=body, headers=headers)
    _judge(answer, said, reference, 201)


class _Counted(io.RawIOBase):
    """A file that says how much of it was read."""

    def __init__(self, file: io.BufferedReader, count: Callable[[int], None]) -> None:
        self._file = file
        self._count = count

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._count(len(data))
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def _judge(answer: Any, said: bytes, reference: Reference, wanted: int) -> None:
    if answer.status == wanted:
        return
    reason = _said(said)
    match answer.status:
        case 401 | 403:
            raise RegistryRefusedError(
                f"{reference.host} does not let you push to {reference.path}{reason}",
                hint="Log in with `docker login` or `podman login` as somebody who may.",
            )
        case 404:
            raise RegistryRefusedError(
                f"{reference.host} has no repository {reference.path}{reason}",
                hint="Some registries want it to be made first.",
            )
        case 413 | 507:
            raise RegistryError(
                f"{reference.host} has no room for the image{reason}", hint="Make some there, and push again."
            )
        case 429:
            raise RegistryError(f"{reference.host} takes no more for now (429)", hint="Try again later.")
        case status if status >= 500:
            raise RegistryError(
                f"{reference.host} cannot take the image: status {status}{reason}",
                hint="It has a fault of its own; its disk may be full. What it has already is not sent again.",
            )
        case status:
            raise RegistryError(f"{reference.host} does not take the image: status {status}{reason}")


def _said(body: bytes) -> str:
    """The registry's own words (distribution specification, "error codes")."""
    try:
        first = json.loads(body)["errors"][0]
        words = [str(first.get(key, "")) for key in ("message", "detail")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    text = ", ".join(word for word in words if word not in {"", "None", "{}"})[:300]
    return f": {text}" if text else ""
