"""Grants as the broker holds them: the policy read, the keys in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sealserve.broker.grant import ModelGrant, ReleasedKey
from sealserve.broker.settings import BrokerSettings, GrantSettings, Version1Settings
from sealserve.evidence import AppraisalPolicy
from sealserve.files import read_secret_file
from sealserve.secret import Secret

KEY_SIZE = 16


@dataclass(frozen=True)
class HeldGrant:
    """Which enclaves (``policy``) get what."""

    deployment: str
    policy: AppraisalPolicy
    keys: Mapping[str, ReleasedKey] = field(repr=False)
    model: ModelGrant
    arguments: Mapping[str, str]
    version_1: Version1Settings | None

    def version_1_secret(self) -> Secret:
        """The bytes that protocol version 1 sends."""
        if self.version_1 is None:
            raise ValueError("this grant is not for protocol version 1")
        value = self.keys[self.version_1.key].value.reveal()
        return Secret(value) if self.version_1.encoding == "raw" else Secret(value.hex().encode() + b"\0")


def hold_grants(settings: BrokerSettings) -> dict[str, HeldGrant]:
    """Read every policy and key that the settings name; by deployment.

    :raises ConfigurationError: a policy is not valid, or names no enclave.
    :raises KeyFileError: a key file is missing, readable by others, or has not exactly 16 bytes.
    """
    return {grant.deployment: _hold(grant) for grant in settings.grants}


def _hold(settings: GrantSettings) -> HeldGrant:
    keys = {
        name: ReleasedKey(name, key.version, read_secret_file(key.file, size=KEY_SIZE))
        for name, key in settings.keys.items()
    }
    model = settings.model
    return HeldGrant(
        deployment=settings.deployment,
        policy=AppraisalPolicy.load(settings.policy),
        keys=keys,
        model=ModelGrant(model.name, model.version, bytes.fromhex(model.digest), model.mount, model.key),
        arguments=settings.arguments,
        version_1=settings.version_1,
    )
