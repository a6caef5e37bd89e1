"""The model that a replica serves: what its grant names, exchanged for another while requests go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from sealserve.broker.grant import Grant, ModelGrant
from sealserve.enclave.attestation import AttestationService
from sealserve.enclave.loading import Storage
from sealserve.errors import SealError, SealserveError
from sealserve.logs import event, get_logger
from sealserve.notify import notify
from sealserve.secret import Secret
from sealserve.serving.core import ModelServer
from sealserve.wire.attestation_pb2 import ServedModel

_log = get_logger(__name__)


@dataclass(frozen=True)
class _Named:
    """What a grant names."""

    model: ModelGrant
    key_version: int
    arguments: Mapping[str, str]


class GrantedModel:
    """What answers requests, and what evidence says of it: the two change together.

    :param core: of the gRPC server. :param attestation: whose claims are kept right. :param storage: of the host.
    """

    def __init__(self, core: ModelServer, attestation: AttestationService, storage: Storage) -> None:
        self._core = core
        self._attestation = attestation
        self._storage = storage
        self._answering: _Named | None = None
        self._followed: _Named | None = None

    @property
    def answering(self) -> ModelGrant | None:
        """The model that answers now; none before the first grant."""
        return None if self._answering is None else self._answering.model

    def take(self, grant: Grant) -> None:
        """Serve what a grant names, as far as the storage has it, and wipe the grant. Blocks while a model is loaded.

        A new model is loaded beside the old one. New requests get it from one moment to the next; those in flight
        finish with the old one, which is dropped then. A grant that names the same model under another key version
        changes nothing in memory; the storage is checked to open under it, because the next start will need that.

        :raises SealserveError: the granted model cannot be had. What answered before goes on to answer; or, if the
            grant does not permit that, the model that it names as the one before, if the storage has it.
        """
        try:
            key = grant.keys[grant.model.key]
            named = _Named(grant.model, key.version, dict(grant.arguments))
            # The second is not idle: since the first was followed, the model before another may have come to answer.
            if named == self._followed and self._answers(grant.model):
                return
            try:
                self._serve(named, key.value)
            except SealError as error:
                self._serve_previous(grant, error)
                raise
            self._followed = named
        finally:
            grant.wipe()

    def permitted_by(self, grant: Grant) -> bool:
        """Whether what answers is what a grant names, or what it names as the one before."""
        named = [grant.model] if grant.previous is None else [grant.model, grant.previous.model]
        return any(self._answers(model) for model in named)

    def _answers(self, model: ModelGrant) -> bool:
        """Whether this very content answers, whatever key it was sealed under."""
        now = self.answering
        return now is not None and _content(now) == _content(model)

    def _serve(self, named: _Named, key: Secret) -> None:
        model = named.model
        if self._answers(model) and self._answering and self._answering.arguments == named.arguments:
            self._storage.open(model, key)
            event(_log, logging.INFO, "key-rotated", model=model.name, key=model.key, key_version=named.key_version)
            return
        loaded = self._storage.load(model, key, named.arguments)
        # While both may answer, evidence says both: a client that accepts one of them only waits for an instant.
        self._attestation.announce([*self._claims(), _claim(model)])
        try:
            self._core.replace(model.name, model.version, loaded, digest=model.digest)
            self._answering = named
        finally:
            self._attestation.announce(self._claims())
        notify(STATUS=f"serving {model.name} version {model.version}")
        event(
            _log,
            logging.INFO,
            "model-served",
            model=model.name,
            version=model.version,
            digest=model.digest.hex(),
            key_version=named.key_version,
        )

    def _serve_previous(self, grant: Grant, reason: SealError) -> None:
        """Serve what the grant named before, unless what answers is permitted."""
        previous = grant.previous
        if previous is None or self.permitted_by(grant):
            return
        event(_log, logging.WARNING, "previous-model-tried", model=grant.model.name, reason=reason)
        try:
            self._serve(_Named(previous.model, previous.key.version, dict(grant.arguments)), previous.key.value)
        except SealserveError as error:
            event(_log, logging.WARNING, "previous-model-unusable", model=previous.model.name, reason=error)

    def _claims(self) -> list[ServedModel]:
        return [] if self._answering is None else [_claim(self._answering.model)]


def _content(model: ModelGrant) -> tuple[str, int, bytes]:
    return model.name, model.version, model.digest


def _claim(model: ModelGrant) -> ServedModel:
    return ServedModel(name=model.name, version=model.version, digest=model.digest)
