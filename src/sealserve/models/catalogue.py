"""Models that sealserve knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sealserve.models import efficientnet


@dataclass(frozen=True)
class Download:
    """A model that somebody keeps on a server.

    :ivar file_name: what the file is called here.
    :ivar sha256: of the file, in hexadecimal digits; None where nobody has published it.
    :ivar inputs: for the conversion of a frozen graph; so ``outputs``.
    """

    url: str
    file_name: str
    sha256: str | None = None
    inputs: str = ""
    outputs: str = ""


WRITTEN: Mapping[str, Callable[[Path], Path]] = {efficientnet.NAME: efficientnet.write_efficientnet_lite0}
"""Models that are made here of weights that a package brings."""

DOWNLOADS: Mapping[str, Download] = {
    # What `download_model.sh` of Intel's TensorFlow Serving solution fetches, under the name that it gives it.
    "resnet50-v15-fp32": Download(
        url="https://storage.googleapis.com/intel-optimized-tensorflow/models/v1_8/resnet50_fp32_pretrained_model.pb",
        file_name="resnet50-v15-fp32.pb",
        inputs="input",
        outputs="predict",
    ),
}


def model_names() -> tuple[str, ...]:
    """All names."""
    return (*WRITTEN, *DOWNLOADS)
