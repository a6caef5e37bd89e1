"""From the storage into the engine: open a sealed model with a granted key, unseal a version in memory, load it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sealserve.broker.grant import ModelGrant
from sealserve.errors import ConfigurationError, ModelError
from sealserve.logs import event, get_logger
from sealserve.sealing import SealedModel, open_sealed_model
from sealserve.secret import Secret
from sealserve.serving.batching import BatchingModel, BatchingParameters
from sealserve.serving.engine import Engine, LoadedModel
from sealserve.serving.engines import DEFAULT_ENGINE, create_engine
from sealserve.serving.model_files import MemoryFiles
from sealserve.serving.warm_up import warm_up

_log = get_logger(__name__)


@dataclass(frozen=True)
class Storage:
    """Where the host keeps the sealed model. Nothing of it is trusted.

    :param sealed: the directory. :param most_threads: how many may compute; None: as many as there are processors.
    """

    sealed: Path
    most_threads: int | None = None

    def open(self, model: ModelGrant, key: Secret) -> SealedModel:
        """Check that it holds this very model, sealed under this key; contents are checked when they are read.

        :raises SealError: it does not. :raises InputError: it cannot be read.
        """
        return open_sealed_model(self.sealed, key, mount=model.mount, expected_digest=model.digest)

    def load(self, model: ModelGrant, key: Secret, arguments: Mapping[str, str]) -> LoadedModel:
        """Unseal the granted version into memory files and load it. Blocks; the key is not needed afterwards.

        :param arguments: the grant's: how to run it.
        :raises SealError: as :meth:`open`. :raises ConfigurationError: an argument is not usable.
        :raises ModelError: the version is missing, or the engine fails, on the model or on the requests that come with
            it (``assets.extra/tf_serving_warmup_requests``).
        """
        started = time.monotonic()
        sealed = self.open(model, key)
        version = f"{model.version}/"
        names = [file.name for file in sealed.files if file.name.startswith(version)]
        if not names:
            raise ModelError(
                f"the sealed model has no version {model.version}, which the key broker says to serve",
                hint="Seal the model with that version, or change the version in the broker's grant.",
            )
        engine, batching = _engine(arguments, self.most_threads), _batching(arguments)
        with MemoryFiles() as files:
            for name in names:
                with files.add(name.removeprefix(version)) as file:
                    sealed.copy_to(name, file)
            unsealed = time.monotonic()
            loaded = engine.load(files)
            if batching is not None:
                loaded = BatchingModel(loaded, batching)
            try:
                warmed_up = warm_up(loaded, files)
            except BaseException:
                loaded.close()
                raise
        event(
            _log,
            logging.INFO,
            "model-loaded",
            model=model.name,
            version=model.version,
            digest=model.digest.hex(),
            unseal_seconds=round(unsealed - started, 3),
            load_seconds=round(time.monotonic() - unsealed, 3),
            warm_up_requests=warmed_up,
        )
        return loaded


def _batching(arguments: Mapping[str, str]) -> BatchingParameters | None:
    text = arguments.get("batching")
    return None if text is None else BatchingParameters.from_text(text, source="the grant's argument batching")


def _engine(arguments: Mapping[str, str], most_threads: int | None) -> Engine:
    """The engine that the owner chose. It is never the host's choice: arguments come with the grant.

    An enclave has room for as many threads as its manifest says, and one more ends it in the middle of a request.
    """
    try:
        threads = int(arguments.get("threads", "0"))
    except ValueError:
        raise ConfigurationError(f"threads is no number: {arguments['threads']!r}") from None
    if most_threads is not None:
        if threads > most_threads:
            raise ConfigurationError(
                f"the grant's argument threads is {threads}, and this replica was made for at most {most_threads}",
                hint="Lower it in the broker's grant, or raise replicas.threads in deployment.yaml and build the image "
                "again.",
            )
        if threads <= 0:
            threads = min(most_threads, os.cpu_count() or 1)
    return create_engine(
        arguments.get("engine", DEFAULT_ENGINE),
        precision=arguments.get("precision", "f32"),
        threads=threads if threads > 0 else None,
    )
