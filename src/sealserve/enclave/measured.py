"""The settings of a replica that are part of its measurement.

Under Gramine these stand in the manifest, or in files that it lists with their hashes; the simulated platform hashes
them together with the code; a replica in a TDX guest puts their digest into RTMR 3. Both sides use this module: whoever
computes the measurement to expect, and the replica itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def measured_settings(*, deployment: str, broker_ca: bytes) -> dict[str, str]:
    """What is measured beside the code.

    :param deployment: the name under which the replica asks the broker for its grant.
    :param broker_ca: the certificate authority of the key broker, PEM. A replica takes keys from no other.
    """
    return {"deployment": deployment, "broker_ca_sha256": hashlib.sha256(broker_ca).hexdigest()}


def settings_digest(settings: Mapping[str, str]) -> bytes:
    """What a replica in a trust domain extends RTMR 3 with: 48 bytes, which say its settings.

    SHA-384 over a label and, in the order of the keys, key and value, each with its length before it (8 bytes,
    big-endian).
    """
    digest = hashlib.sha384(b"sealserve measured settings, version 1\0")
    for key, value in sorted(settings.items()):
        for field in (key.encode(), value.encode()):
            digest.update(len(field).to_bytes(8, "big") + field)
    return digest.digest()


def settings_register(settings: Mapping[str, str]) -> bytes:
    """RTMR 3 of a guest whose replicas have these settings: what was zero, extended once (Intel TDX Module, TDG.MR)."""
    return hashlib.sha384(bytes(48) + settings_digest(settings)).digest()
