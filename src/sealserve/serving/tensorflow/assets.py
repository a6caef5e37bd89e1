"""Assets of a model, such as vocabularies, under names that only this process can follow."""

from __future__ import annotations

import contextlib
from typing import Any, BinaryIO

from sealserve.errors import ModelError
from sealserve.files import explain_os_error
from sealserve.serving.model_files import ModelFiles, kept

_DIRECTORY = "assets"


class OpenAssets:
    """The assets of a model version, open until :meth:`close`: an operation may read one at any time.

    :ivar feeds: for each tensor that names an asset, a path that only this process can follow, and that leads to that
        file whatever happens to the directory where it lay.
    :raises ModelError: an asset is missing.
    """

    def __init__(self, meta_graph: Any, files: ModelFiles) -> None:
        self.feeds: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            for asset in meta_graph.asset_file_def:
                # The files themselves are closed when the model is loaded.
                try:
                    path = stack.enter_context(kept(_find(files, asset.filename)))
                except OSError as error:
                    raise explain_os_error(error, _DIRECTORY, "read") from error
                self.feeds[asset.tensor_info.name] = path
            self._files = stack.pop_all()

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _find(files: ModelFiles, name: str) -> BinaryIO:
    path = f"{_DIRECTORY}/{name}"
    if path not in files:
        raise ModelError(
            f"the model's asset {path} is missing",
            hint="Copy the whole directory of the version: assets/ belongs to it.",
        )
    return files[path]
