"""Which models are served: from the flags, from ``--model_config_file``, or from a ReloadConfigRequest."""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path

from sealserve.errors import ConfigurationError, InputError, SealserveError
from sealserve.files import read_file
from sealserve.logs import event, get_logger
from sealserve.models.onnx_file import ONNX_FILE
from sealserve.models.saved_model import SAVED_MODEL_FILE
from sealserve.sealing.keys import read_wrap_key
from sealserve.sealing.listing import INCOMPLETE_NAME, LIST_NAME, MAX_LIST_BYTES, SEALS_NAME, ModelList
from sealserve.serving.errors import ModelsUnavailableError
from sealserve.serving.process.options import ServeOptions
from sealserve.serving.process.text_files import read_text
from sealserve.serving.saved_model_files import TFLITE_FILE
from sealserve.serving.versions import (
    PlainSource,
    SealedSource,
    ServedModelConfig,
    Source,
    VersionManager,
    read_model_server_config,
    served_models,
)
from sealserve.wire.tensorflow_serving_config_pb2 import ModelServerConfig

_FLAG = "model_config_file"
_MODEL_FILES = (SAVED_MODEL_FILE, ONNX_FILE, TFLITE_FILE)

_log = get_logger(__name__)


class Configuration:
    """The models that are to be served, and how to get from one set of them to the next.

    :raises KeyFileError: the key is not usable.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._key = read_wrap_key(Path(options.values["key_file"])) if options.values["key_file"] else None
        self._lock = threading.Lock()
        self._now: ModelServerConfig | None = None
        self._trouble = ""

    @property
    def file(self) -> Path | None:
        """The file that says which models are served, if there is one."""
        return Path(self._options.values[_FLAG]) if self._options.values[_FLAG] else None

    def first(self) -> list[ServedModelConfig]:
        """The models to begin with.

        :raises ConfigurationError: they cannot be served. :raises SealError: a sealed one does not open with the key.
        """
        self._now = self._read()
        models = self.models(self._now)
        for model in models:
            if isinstance(model.source, SealedSource):
                model.source.versions()  # the version manager would wait for what never comes
        return models

    def reload_file(self, manager: VersionManager, *, asked: bool) -> None:
        """Follow what the file says now; the old stays if the new cannot be had.

        Errors are logged: the server goes on with what it has.

        :param asked: somebody wants it followed, even if it says what it said before.
        """
        try:
            wanted = self._read()
            if asked or wanted != self._now:
                self.reload(wanted, manager)
                event(_log, logging.INFO, "configuration-reloaded", file=self.file)
            self._trouble = ""
        except SealserveError as error:
            # A file that is looked at each second is not complained of each second.
            if asked or self._trouble != error.message:
                event(_log, logging.ERROR, "configuration-not-reloaded", file=self.file, reason=error, hint=error.hint)
            self._trouble = error.message

    def reload(self, wanted: ModelServerConfig, manager: VersionManager) -> None:
        """Serve other models. :raises SealserveError: they cannot be; what was served before stays."""
        with self._lock:
            models = self.models(wanted)
            try:
                manager.reload(models)
            except ModelsUnavailableError:
                self._now = wanted  # it was taken all the same
                raise
            self._now = wanted

    def _read(self) -> ModelServerConfig:
        if self.file is not None:
            text = read_text(self.file, _FLAG)
            try:
                return read_model_server_config(text)
            except InputError as error:
                raise ConfigurationError(f"--{_FLAG}: {self.file}: {error.message}", hint=error.hint) from error
        config = ModelServerConfig()
        config.model_config_list.config.add(
            name=self._options.values["model_name"],
            base_path=str(Path(self._options.values["model_base_path"]).absolute()),
            model_platform="tensorflow",
        )
        return config

    def models(self, config: ModelServerConfig) -> list[ServedModelConfig]:
        """The models of a configuration, each with its source and its engine.

        :raises ConfigurationError: one cannot be served.
        """
        models = served_models(config, source=self._source, engine=self._options.engines.of)
        unknown = set(self._options.engines.by_model) - {model.name for model in models}
        for name in sorted(unknown):
            event(_log, logging.WARNING, "no-such-model", setting="--model_engine", model=name)
        return models

    def _source(self, base_path: str) -> Source:
        directory = Path(base_path)
        if not is_sealed(directory):
            return PlainSource(directory)
        if self._key is None:
            raise ConfigurationError(
                f"{directory} is a sealed model, and there is no key to open it",
                hint="Give its wrap key with --key_file.",
            )
        return SealedSource(directory, self._key)


def explain_missing(model: ServedModelConfig) -> str:
    """Why a model has no version to serve, for who has just named its directory; empty where that is not known."""
    if not isinstance(model.source, PlainSource):
        return ""
    directory = model.source.base_path
    if not directory.exists():
        return f"there is no {directory}: give the directory that holds the model's versions, or make it"
    if not directory.is_dir():
        return f"{directory} is a file: give the directory that holds the model's versions"
    if any((directory / name).exists() for name in _MODEL_FILES):
        if directory.name.isdecimal():
            return f"{directory} is a version: give the directory that it is in, {directory.parent}"
        return f"{directory} holds a model itself: put its files into a directory named by a number, {directory / '1'}"
    with contextlib.suppress(SealserveError):
        if versions := model.source.versions():
            found = ", ".join(map(str, versions[-10:]))
            return f"{directory} has the versions {found}: they do not load, or the configuration names others"
    return f"no directory in {directory} is named by a number: a version's files lie in {directory / '1'}, say"


def is_sealed(directory: Path) -> bool:
    """Whether it holds a sealed model, or one that is being sealed or lost a part: never to be served as it lies.

    On an encrypted mount of Gramine's a sealed model lies in the clear, its list too: then it is none.
    """
    if not any((directory / name).exists() for name in (LIST_NAME, SEALS_NAME, INCOMPLETE_NAME)):
        return False
    if (directory / INCOMPLETE_NAME).exists():
        return True
    try:
        ModelList.decode(read_file(directory / LIST_NAME, limit=MAX_LIST_BYTES))
    except SealserveError:
        return True
    return False
