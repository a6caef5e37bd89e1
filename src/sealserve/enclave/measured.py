"""The settings of a replica that are part of its measurement.

Under Gramine these stand in the manifest, or in files that it lists with their hashes; the simulated platform hashes
them together with the code. Both sides use this module: whoever computes the measurement to expect, and the replica
itself.
"""

from __future__ import annotations

import hashlib


def measured_settings(*, deployment: str, broker_ca: bytes) -> dict[str, str]:
    """What is measured beside the code.

    :param deployment: the name under which the replica asks the broker for its grant.
    :param broker_ca: the certificate authority of the key broker, PEM. A replica takes keys from no other.
    """
    return {"deployment": deployment, "broker_ca_sha256": hashlib.sha256(broker_ca).hexdigest()}
