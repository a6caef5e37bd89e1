"""``ModelServerConfig``: TensorFlow Serving's list of models, from its text form and as it comes in a request.

Messages and what is refused follow its ``server_core.cc``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from google.protobuf import text_format

from sealserve.errors import ConfigurationError
from sealserve.logs import event, get_logger
from sealserve.serving.versions.configuration import ServedModelConfig
from sealserve.serving.versions.policy import All, Latest, Policy, Specific
from sealserve.serving.versions.sources import Source
from sealserve.wire.tensorflow_serving_config_pb2 import (
    MODEL_TYPE_UNSPECIFIED,
    TENSORFLOW,
    FileSystemStoragePathSourceConfig,
    ModelConfig,
    ModelServerConfig,
)

_log = get_logger(__name__)

PLATFORMS = frozenset({"tensorflow", "openvino"})
"""Values of ``model_platform``. They are about what the files are, and do not choose an engine."""

_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_MOST_VERSION = (1 << 63) - 1


def read_model_server_config(text: str) -> ModelServerConfig:
    """Parse and check a ``model_config_file``.

    :raises ConfigurationError: it is not valid; the message has the line, and the field or the model.
    """
    config = ModelServerConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        if re.match(r"\s*custom_model_config\b", text):
            raise _no_custom() from error
        line = error.GetLine()
        where = f"line {line}, column {error.GetColumn()}: " if line is not None else ""
        what = re.sub(r"^\d+:\d+ : ", "", str(error))
        raise ConfigurationError(
            f"the model config list is no ModelServerConfig: {where}{what}",
            hint="It is protobuf text: model_config_list { config { name: … base_path: … model_platform: … } }",
        ) from error
    except RecursionError as error:
        raise ConfigurationError("the model config list is nested too deeply") from error
    check_model_server_config(config)
    return config


def check_model_server_config(config: ModelServerConfig) -> None:
    """:raises ConfigurationError: models are listed that cannot be served as they are described."""
    if config.WhichOneof("config") == "custom_model_config":
        raise _no_custom()
    seen: set[str] = set()
    for index, model in enumerate(config.model_config_list.config):
        if not model.name:
            raise ConfigurationError(f"model_config_list.config[{index}] has no name")
        if model.name in seen:
            raise ConfigurationError(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
        _check_path(model)
        _check_platform(model)
        _check_versions(model)


def served_models(
    config: ModelServerConfig, *, source: Callable[[str], Source], engine: Callable[[str], str]
) -> list[ServedModelConfig]:
    """The models of a checked configuration.

    :param source: from a base path. :param engine: the name of the engine, from that of the model.
    """
    return [
        ServedModelConfig(
            name=model.name,
            source=source(model.base_path),
            policy=version_policy(model.model_version_policy),
            labels=dict(model.version_labels),
            engine=engine(model.name),
        )
        for model in config.model_config_list.config
    ]


def version_policy(policy: FileSystemStoragePathSourceConfig.ServableVersionPolicy) -> Policy:
    """The policy that a configuration means; if it has none, the one latest version."""
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(policy.specific.versions))
        case _:
            return Latest(max(policy.latest.num_versions, 1))


def _check_path(model: ModelConfig) -> None:
    path = model.base_path
    if _URI.match(path):
        raise ConfigurationError(
            f"model {model.name}: base_path {path} is a URI, and models are read from directories only",
            hint="Mount the storage, or copy the model to a local directory.",
        )
    if not path.startswith("/"):
        raise ConfigurationError(f"Expected model {model.name} to have an absolute path or URI; got base_path()={path}")
    if "\0" in path:
        raise ConfigurationError(f"model {model.name}: base_path has a zero byte")


def _check_platform(model: ModelConfig) -> None:
    platform = model.model_platform
    if model.model_type != MODEL_TYPE_UNSPECIFIED:
        if platform:
            raise ConfigurationError(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        if model.model_type != TENSORFLOW:
            raise ConfigurationError(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        platform = "tensorflow"
    if not platform:
        raise ConfigurationError(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}",
            hint='Add model_platform: "tensorflow".',
        )
    if platform not in PLATFORMS:
        raise ConfigurationError(
            f"Model {model.name} requests unsupported platform {platform}", hint='Use model_platform: "tensorflow".'
        )


def _check_versions(model: ModelConfig) -> None:
    specific = model.model_version_policy.specific.versions
    if model.model_version_policy.HasField("specific") and not specific:
        raise ConfigurationError(
            f"model {model.name}: the version policy `specific` has no versions",
            hint="Name at least one: specific { versions: 1 }.",
        )
    negative = [number for number in [*specific, *model.version_labels.values()] if not 0 <= number <= _MOST_VERSION]
    if negative:
        raise ConfigurationError(f"model {model.name}: {negative[0]} is not the number of a version")
    if model.HasField("logging_config"):
        event(
            _log,
            logging.WARNING,
            "setting-without-effect",
            model=model.name,
            setting="logging_config",
            reason="requests are not written down",
        )


def _no_custom() -> ConfigurationError:
    return ConfigurationError("custom_model_config is not supported", hint="List models with model_config_list.")
