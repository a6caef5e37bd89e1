"""Assets of a model, such as vocabularies, under names that only this process can follow."""

from __future__ import annotations

import contextlib
import os
from typing import Any, BinaryIO

from sealserve.errors import ModelError
from sealserve.files import explain_os_error
from sealserve.serving.model_files import ModelFiles

_DIRECTORY = "assets"


class OpenAssets:
    """The assets of a model version, open until :meth:`close`: an operation may read one at any time.

    :ivar feeds: for each tensor that names an asset, ``/proc/self/fd/N`` of the open file, which leads to that file
        whatever happens to the directory where it lay.
    :raises ModelError: an asset is missing.
    """

    def __init__(self, meta_graph: Any, files: ModelFiles) -> None:
        self.feeds: dict[str, str] = {}
        self._descriptors: list[int] = []
        try:
            for asset in meta_graph.asset_file_def:
                # A descriptor of its own: the files are closed when the model is loaded.
                descriptor = os.dup(_find(files, asset.filename).fileno())
                self._descriptors.append(descriptor)
                self.feeds[asset.tensor_info.name] = f"/proc/self/fd/{descriptor}"
        except OSError as error:
            self.close()
            raise explain_os_error(error, _DIRECTORY, "read") from error
        except ModelError:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())


def _find(files: ModelFiles, name: str) -> BinaryIO:
    path = f"{_DIRECTORY}/{name}"
    if path not in files:
        raise ModelError(
            f"the model's asset {path} is missing",
            hint="Copy the whole directory of the version: assets/ belongs to it.",
        )
    return files[path]
