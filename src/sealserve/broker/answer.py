"""The answer to an enclave whose evidence is accepted."""

from __future__ import annotations

from sealserve.broker.grant import ModelGrant, ReleasedKey
from sealserve.broker.grants import HeldGrant
from sealserve.broker.messages import Granted, Key, Model, Previous, Tls


def granted(decision: str, grant: HeldGrant, names: tuple[str, ...], *, version_1: bool = False) -> Granted:
    """The answer.

    :param version_1: protocol version 1 sends one key, and nothing else.
    :raises KeyNotReleasedError: a key of it is retired or destroyed.
    """
    return Granted(
        decision=decision,
        keys={name: _key(grant.keys[name].release()) for name in names},
        model=_model(grant.model),
        arguments=dict(grant.arguments),
        revision=grant.revision,
        refresh=grant.refresh_seconds,
        previous=None if version_1 else _previous(grant, names),
        tls=None if version_1 else _tls(grant),
    )


def _tls(grant: HeldGrant) -> Tls | None:
    if grant.tls is None:
        return None
    key = bytes(grant.tls.key.release().value.reveal())
    return Tls(certificate=grant.tls.certificate, key=key, client_authority=grant.tls.client_authority)


def _previous(grant: HeldGrant, names: tuple[str, ...]) -> Previous | None:
    """What the grant named before, for whoever asks for the model's key, until that version is retired."""
    if grant.previous is None:
        return None
    model, key = grant.previous
    if grant.model.key not in names or not key.key.releasable():
        return None
    return Previous(model=_model(model), key=_key(key.release()))


def _key(key: ReleasedKey) -> Key:
    return Key(version=key.version, value=bytes(key.value.reveal()))


def _model(model: ModelGrant) -> Model:
    return Model(name=model.name, version=model.version, digest=model.digest, mount=model.mount, key=model.key)
