"""The section ``image`` of ``deployment.yaml``: what is measured when replicas run inside SGX."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sealserve.configuration import Settings
from sealserve.deploy.field_types import AddressText, PathText

LEAST_ENCLAVE_SIZE = 1 << 28
GREATEST_ENCLAVE_SIZE = 1 << 40
MOST_THREADS = 4096

_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_IMAGE_NAME = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::\d{1,5})?/)?"  # registry
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"  # path
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"  # tag
)
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}")
_HOW_TO_PIN = "`sealserve image pin NAME:TAG` asks the registry for the digest"


def parse_size(text: str) -> int:
    """The bytes of a size as Gramine writes it: ``512M``, ``8G``, ``1T``.

    :raises ValueError: it is none.
    """
    found = re.fullmatch(r"([1-9]\d{0,6})([MGT])", text)
    if found is None:
        raise ValueError("must be auto or a size such as 512M or 8G")
    return int(found[1]) * _UNITS[found[2]]


def format_size(size: int) -> str:
    """A power of two of bytes, at least 1 MiB, as Gramine writes it."""
    unit = next(unit for unit in ("T", "G", "M") if size >= _UNITS[unit])
    return f"{size // _UNITS[unit]}{unit}"


def _is_size(value: str) -> str:
    if value == "auto":
        return value
    size = parse_size(value)
    if size & (size - 1):
        lower = 1 << (size.bit_length() - 1)
        near = " or ".join(format_size(near) for near in (lower, 2 * lower))
        raise ValueError(f"must be a power of two, as the processor demands: {near}")
    if not LEAST_ENCLAVE_SIZE <= size <= GREATEST_ENCLAVE_SIZE:
        raise ValueError(
            f"must be from {format_size(LEAST_ENCLAVE_SIZE)} to {format_size(GREATEST_ENCLAVE_SIZE)}: "
            "with less not even the interpreter starts"
        )
    return value


def _is_thread_count(value: int | str) -> int | str:
    if isinstance(value, int) and not 4 <= value <= MOST_THREADS:
        raise ValueError(f"must be auto or a number from 4 to {MOST_THREADS}; Gramine itself needs three")
    return value


def _is_image_name(value: str) -> str:
    if not _IMAGE_NAME.fullmatch(value):
        raise ValueError("must be the name of an image, such as registry.example/team/classifier:1")
    return value


def is_pinned(value: str) -> str:
    """A reference of an image that no tag can change. :raises ValueError: it has no digest, or is none."""
    name, at, _ = value.partition("@")
    if not at:
        raise ValueError(
            f"must be pinned by digest (NAME@sha256:...), because what a tag means can change. {_HOW_TO_PIN}"
        )
    if not (_IMAGE_NAME.fullmatch(name) and _DIGEST.fullmatch(value[len(name) :])):
        raise ValueError(f"must be NAME@sha256: and 64 hexadecimal digits. {_HOW_TO_PIN}")
    return value


UNKNOWN_DIGEST = "sha256:" + 64 * "0"
"""Stands where a digest is not known yet."""


class ImageSection(Settings):
    name: Annotated[str, AfterValidator(_is_image_name)] | None = Field(
        default=None,
        description="What the image of the replicas is called. Needed by `sealserve image`.",
        examples=["registry.example/team/classifier:1"],
    )
    base: Annotated[str, AfterValidator(is_pinned)] | None = Field(
        default=None,
        description="The image that it is built on: Ubuntu 24.04, pinned by digest (`sealserve image pin ubuntu:24.04` "
        "prints it). Needed by `sealserve image`.",
        examples=["ubuntu:24.04@sha256:" + 64 * "0"],
    )
    model_server: Annotated[str, AfterValidator(is_pinned)] | None = Field(
        default=None,
        description="The image that tensorflow_model_server is taken from, pinned by digest. Needed for model.engine: "
        "tensorflow-serving alone.",
        examples=["tensorflow/serving:2.19.1@sha256:" + 64 * "0"],
    )
    brokers: list[AddressText] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="Where replicas find the key brokers, in the order in which they are tried. Measured. "
        "broker.listen if not given.",
        examples=[["broker.example:4433"]],
    )
    broker_ca: PathText | None = Field(
        default=None,
        description="Certificate authority of the key brokers, PEM: replicas take keys from no other. Copied into the "
        "image and measured. owner/ca.pem in the state directory if not given. Relative paths start at this file.",
        examples=["broker-ca.pem"],
    )
    enclave_size: Annotated[str, AfterValidator(_is_size)] = Field(
        default="auto",
        description="Address space of the enclave: a power of two such as 4G. It is the most memory that a replica "
        "can have, and all of it is loaded at start. auto: chosen from the model's size and the threads.",
    )
    max_threads: Annotated[int | Literal["auto"], AfterValidator(_is_thread_count)] = Field(
        default="auto",
        description="The most threads that can be inside the enclave at once; one more makes the replica fail. auto: "
        "chosen from replicas.threads.",
    )
    isv_prod_id: int = Field(
        default=1,
        ge=0,
        le=65535,
        description="Product number (ISVPRODID): tells images apart that the same key has signed.",
    )
    isv_svn: int = Field(
        default=1,
        ge=0,
        le=65535,
        description="Security version (ISVSVN): raise it when an older image must not get keys any more; policies name "
        "the least that they accept.",
    )
