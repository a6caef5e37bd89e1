"""Polls the sources, loads and unloads versions in threads of its own, and changes the configuration as a whole."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Sequence

from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger
from sealserve.serving.core import ModelServer
from sealserve.serving.engine import LoadedModel
from sealserve.serving.errors import ModelsUnavailableError, ServableNotFoundError
from sealserve.serving.heap import give_back
from sealserve.serving.in_use import LoadedVersion
from sealserve.serving.states import error_message
from sealserve.serving.versions.configuration import Load, ServedModelConfig
from sealserve.serving.versions.model_versions import ModelVersions, Version
from sealserve.serving.versions.policy import Phase, next_step
from sealserve.serving.versions.validation import check_labels, check_names, find_versions
from sealserve.threads import RequestThreads

_log = get_logger(__name__)

_GONE_KEPT = 32  # models that are configured no more, whose status is still told
_STOP_SECONDS = 30.0


class VersionManager:
    """Keeps what is loaded what the configuration and the sources say. Safe to use from several threads.

    :param core: where versions answer; nobody else adds models to it.
    :param load: makes a version ready.
    :param poll_seconds: between two looks at the sources; 0 or less: only at the start and with a configuration.
    :param load_threads: versions loaded at once, at least one.
    :param load_retries: after a first attempt that failed. :param retry_seconds: between two attempts.
    :param allow_unavailable_labels: a label may stand for a version that is not loaded, unless it is one that stands
        for another version now.
    """

    def __init__(
        self,
        core: ModelServer,
        load: Load,
        *,
        poll_seconds: float = 1.0,
        load_threads: int = 1,
        load_retries: int = 5,
        retry_seconds: float = 60.0,
        allow_unavailable_labels: bool = False,
    ) -> None:
        self._core = core
        self._load_model = load
        self._poll_seconds = poll_seconds
        self._retries = load_retries
        self._retry_seconds = retry_seconds
        self._allow_unavailable_labels = allow_unavailable_labels
        self._loaders = RequestThreads(max(load_threads, 1))
        self._configuring = threading.Lock()
        # Guards all below. Nothing that takes time is done under it, and nothing that calls back.
        self._changed = threading.Condition(threading.RLock())
        self._models: dict[str, ModelVersions] = {}
        self._removals: list[tuple[ModelVersions, Version]] = []
        self._troubles: dict[str, str] = {}
        self._trim = False
        self._stopping = False
        self._keeper = threading.Thread(target=self._keep, name="versions", daemon=True)

    def start(self, configs: Sequence[ServedModelConfig], *, wait: bool = True) -> None:
        """Begin to load, and to poll. To be called once.

        :param wait: return when every wanted version answers, or failed for good. A model without versions is not
            waited for: it is served as soon as there is one.
        :raises RequestError: the configuration is refused, and nothing was begun.
        :raises ModelsUnavailableError: when waiting, a model cannot be loaded. What can be, is served; the manager goes
            on.
        """
        with self._configuring:
            check_names(configs)
            check_labels(configs, self._core, allow_unavailable=self._allow_unavailable_labels)
            self._apply(configs, {config.name: self._look(config) or [] for config in configs})
            self._keeper.start()
            if wait:
                self._wait([config.name for config in configs])

    def reload(self, configs: Sequence[ServedModelConfig]) -> None:
        """Go over to another configuration as a whole. Versions that failed are tried again.

        Returns when the models that are new in it answer; others change by and by.

        :raises RequestError: it is refused, and the one before goes on.
        :raises ModelsUnavailableError: it was taken, but a new model cannot be loaded.
        """
        with self._configuring:
            check_names(configs)
            check_labels(configs, self._core, allow_unavailable=self._allow_unavailable_labels)
            with self._changed:
                before = {name: model for name, model in self._models.items() if model.config is not None}
            found = {config.name: find_versions(config, before.get(config.name)) for config in configs}
            self._apply(configs, found)
            self._wait([config.name for config in configs if config.name not in before])

    def poll(self) -> None:
        """Look at the sources now. What cannot be read stays as it is."""
        with self._changed:
            configs = [model.config for model in self._models.values() if model.config is not None]
        for config in configs:
            found = self._look(config)
            with self._changed:
                model = self._models[config.name]
                if found is not None and model.config is config:
                    model.update(config, found)
                    self._advance(model)

    def wait_until_settled(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being loaded or unloaded; versions that are to be tried again do not count.

        :returns: whether that came to pass within ``timeout`` seconds.
        """
        resting = {Phase.READY, Phase.FAILED, Phase.WAITING}
        with self._changed:
            return self._changed.wait_for(
                lambda: all(v.phase in resting for model in self._models.values() for v in model.versions), timeout
            )

    def stop(self) -> None:
        """Load nothing more, and unload everything; requests in flight finish."""
        with self._changed:
            self._stopping = True
            for model in self._models.values():
                model.update(None, [])
                self._advance(model)
            self._changed.notify_all()
        if self._keeper.is_alive():
            self._keeper.join(_STOP_SECONDS)
        self._loaders.shutdown()

    def _apply(self, configs: Sequence[ServedModelConfig], found: dict[str, list[int]]) -> None:
        event(_log, logging.INFO, "models-configured", models=[config.name for config in configs])
        with self._changed:
            self._core.configure({config.name: config.labels for config in configs})
            for name in self._models.keys() - found.keys():
                self._models[name].update(None, [])
            for config in configs:
                # Put at the end, so that those that were removed first are forgotten first.
                model = self._models.pop(config.name, None) or ModelVersions(config.name)
                self._models[config.name] = model
                model.try_again()
                model.update(config, found[config.name])
            for model in list(self._models.values()):
                self._advance(model)
            gone = [name for name, model in self._models.items() if model.config is None and not model.versions]
            for name in gone[:-_GONE_KEPT]:
                del self._models[name]
                self._core.report(name, [])

    def _wait(self, names: Sequence[str]) -> None:
        models = [self._models[name] for name in names]
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or all(model.settled() for model in models))
            failed = [model for model in models if not model.ready() and model.versions]
            if not failed or self._stopping:
                return
            causes = []
            for model in failed:
                newest = max(model.versions, key=lambda version: version.number)
                why = f" due to error: {error_message(newest.error)}" if newest.error else ""
                causes.append(f"{{{{name: {model.name} version: {newest.number}}}{why}}}, ")
        raise ModelsUnavailableError(f"{len(failed)} model(s) did not become available: {{{''.join(causes)}}}")

    def _look(self, config: ServedModelConfig) -> list[int] | None:
        """The versions there are; None if that cannot be told. Says what is wrong, once."""
        found: list[int] | None = None
        try:
            found = config.source.versions()
            trouble = "" if config.policy.choose(found) else "it has none of the versions wanted"
        except Exception as error:  # noqa: BLE001 - one source must not keep the others from being looked at
            trouble = error_message(error)
        if trouble and trouble != self._troubles.get(config.name):
            event(_log, logging.WARNING, "model-versions-not-found", model=config.name, reason=trouble)
        self._troubles[config.name] = trouble
        return found

    def _advance(self, model: ModelVersions) -> None:
        """Begin what is to be done next for a model. Called whenever something has changed, with the lock."""
        while step := next_step(model.candidates()):
            action, index = step
            version = model.versions[index]
            if action == "load":
                version.phase, version.started = Phase.LOADING, False
                self._loaders.submit(self._load, model, version)
            else:
                version.phase = Phase.UNLOADING
                self._removals.append((model, version))
        self._core.report(model.name, model.statuses())
        self._changed.notify_all()

    def _load(self, model: ModelVersions, version: Version) -> None:
        """In a thread of the loaders."""
        with self._changed:
            if self._stopping or model.config is None or not model.wants(version):
                self._end(model, version)
                return
            config = version.config = model.config  # the source may have another key by now
            version.started = True
            version.attempts += 1
            self._core.report(model.name, model.statuses())
        event(_log, logging.INFO, "model-version-loading", model=model.name, version=version.number)
        began = time.monotonic()
        try:
            with config.source.open(version.number) as files:
                loaded = self._load_model(config, version.number, files)
        except Exception as error:  # noqa: BLE001 - whatever it is, the version before goes on to answer
            self._fail(model, version, error)
            return
        self._publish(model, version, loaded, round(time.monotonic() - began, 3))

    def _publish(self, model: ModelVersions, version: Version, loaded: LoadedModel, seconds: float) -> None:
        with self._changed:
            # One that is not wanted any more is better than none, until one that is wanted is loaded.
            publish = model.wants(version) or (model.config is not None and not model.ready())
            if publish := publish and not self._stopping:
                for other in model.ready():
                    if other.number == version.number:
                        other.phase = Phase.UNLOADING  # the core removes it below
        closed = functools.partial(self._closed, model, version)
        if not publish:
            LoadedVersion(version.number, loaded, closed).remove()
            return
        self._core.add_model(model.name, version.number, loaded, exchange=True, closed=closed)
        event(_log, logging.INFO, "model-version-loaded", model=model.name, version=version.number, seconds=seconds)
        with self._changed:
            version.phase, version.error = Phase.READY, None
            late = self._stopping
            if late:
                version.phase = Phase.UNLOADING
            self._advance(model)
        if late:
            self._remove(model, version)

    def _fail(self, model: ModelVersions, version: Version, error: Exception) -> None:
        with self._changed:
            version.error = error
            again = version.attempts <= self._retries and not self._stopping
            version.phase = Phase.WAITING if again else Phase.FAILED
            version.due = time.monotonic() + self._retry_seconds
            if not model.wants(version):
                model.end(version)
            serving = [other.number for other in model.ready()]
            self._advance(model)
        event(
            _log,
            logging.WARNING,
            "model-version-failed",
            model=model.name,
            version=version.number,
            reason=error_message(error),
            attempt=version.attempts,
            tried_again=again,
            serving=serving,
        )
        if not isinstance(error, SealserveError):
            _log.debug("model-version-failed", exc_info=error)

    def _closed(self, model: ModelVersions, version: Version) -> None:
        """The last request with it is done, in whatever thread that was."""
        event(_log, logging.INFO, "model-version-unloaded", model=model.name, version=version.number)
        with self._changed:
            self._trim = True
            self._end(model, version)

    def _remove(self, model: ModelVersions, version: Version) -> None:
        try:
            self._core.remove_model(model.name, version.number)
        except ServableNotFoundError:  # somebody else removed it
            self._closed(model, version)

    def _end(self, model: ModelVersions, version: Version) -> None:
        model.end(version)
        self._advance(model)

    def _keep(self) -> None:
        """The thread that polls, unloads, and sees to it that what failed is tried again."""
        poll_at = time.monotonic() + self._poll_seconds if self._poll_seconds > 0 else float("inf")
        while True:
            with self._changed:
                if not (self._removals or self._trim or self._stopping):
                    self._changed.wait(self._idle_seconds(poll_at))  # or until anything changes
                removals, self._removals = self._removals, []
                trim, self._trim = self._trim, False
                if self._stopping and not removals:
                    return
                self._retry_due()
            for model, version in removals:
                self._remove(model, version)
            if trim:
                give_back()
            if time.monotonic() >= poll_at:
                try:
                    self.poll()
                except Exception:  # noqa: BLE001 - a defect must not end polling
                    _log.exception("model-poll-failed")
                poll_at = time.monotonic() + self._poll_seconds

    def _idle_seconds(self, poll_at: float) -> float | None:
        due = [v.due for model in self._models.values() for v in model.versions if v.phase is Phase.WAITING]
        first = min([poll_at, *due])
        return None if first == float("inf") else max(first - time.monotonic(), 0)

    def _retry_due(self) -> None:
        now = time.monotonic()
        for model in self._models.values():
            due = [v for v in model.versions if v.phase is Phase.WAITING and v.due <= now]
            for version in due:
                version.phase = Phase.NEW
            if due:
                self._advance(model)
