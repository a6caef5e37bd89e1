"""What a configuration must be before it is taken. Messages and status codes are those of TensorFlow Serving's
``server_core.cc`` and ``file_system_storage_path_source.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealserve.errors import SealserveError
from sealserve.serving.core import ModelServer
from sealserve.serving.errors import LabelError, RequestError, ServableNotFoundError
from sealserve.serving.versions.configuration import ServedModelConfig
from sealserve.serving.versions.model_versions import ModelVersions


def check_names(configs: Sequence[ServedModelConfig]) -> None:
    """:raises RequestError: a model has no name, or one that another has too."""
    seen: set[str] = set()
    for config in configs:
        if not config.name:
            raise RequestError("a model in the config list has no name")
        if config.name in seen:
            raise RequestError(f"Illegal to list model {config.name} multiple times in config list")
        seen.add(config.name)


def check_labels(configs: Sequence[ServedModelConfig], core: ModelServer, *, allow_unavailable: bool) -> None:
    """:raises LabelError: a label is to stand for a version that does not answer.

    :param allow_unavailable: that is no error, unless the label stands for another version now.
    """
    models = core.models
    for config in configs:
        now = core.labels(config.name)
        for label, version in config.labels.items():
            if version in models.get(config.name, {}):
                continue
            if not allow_unavailable or now.get(label, version) != version:
                raise LabelError(
                    f"Request to assign label to version {version} of model {config.name}, "
                    "which is not currently available for inference",
                    hint="Before its version is loaded, a label takes --allow_version_labels_for_unavailable_models.",
                )


def find_versions(config: ServedModelConfig, before: ModelVersions | None) -> list[int]:
    """The versions there are.

    :param before: the model as it is served now. If it comes from the same place, what is there may be unreadable, or
        nothing, for the moment.
    :raises RequestError: they cannot be found.
    """
    known = before is not None and before.config is not None and before.config.content == config.content
    try:
        found = config.source.versions()
    except SealserveError as error:
        if before is not None and known:
            return before.found
        raise RequestError(
            f"Could not find base path for servable {config.name} with error {error.message}", hint=error.hint
        ) from error
    if not found and not known:
        raise ServableNotFoundError(
            f"Unable to find a numerical version path for servable {config.name}",
            hint="Versions are directories named by numbers: 1/saved_model.pb.",
        )
    return found
