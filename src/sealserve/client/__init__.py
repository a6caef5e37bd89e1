"""The data owner's side: check the enclave, then send.

What is trusted here: the appraisal policy, the clock of this machine, and the root that the policy names. What is
not: the network, the balancer, the host that a replica runs on, and the replica, until its evidence was accepted.

- :func:`attest` checks whoever answers at an address. :class:`Client` checks, then calls models.
- A connection carries inputs only if the TLS key at its other end has evidence that this client asked for with a nonce
  of its own, on that connection or on one with the same key, no longer ago than the client allows
  (:mod:`sealserve.client.pool`). ``docs/client.md`` tells why that suffices.
- Pictures and labels for classifiers: :mod:`sealserve.client.images`, :mod:`sealserve.client.labels`.
"""

from __future__ import annotations

from sealserve.client.attestation import Claims, ServedModel, VerifiedReplica, attest
from sealserve.client.client import Client, InsecureClient
from sealserve.client.errors import (
    ConnectionLostError,
    DeadlinePassedError,
    EvidenceMissingError,
    MalformedReplyError,
    ModelNotAcceptedError,
    ModelNotServedError,
    NotProcessedError,
    RequestRefusedError,
    ServerFaultError,
    ServerNotAcceptedError,
    TargetUnreachableError,
)
from sealserve.client.labels import imagenet_labels
from sealserve.client.messages import Prediction
from sealserve.client.metadata import ModelMetadata, Signature, TensorSpec
from sealserve.client.reply import Reply
from sealserve.client.rest.reply import RestReply
from sealserve.client.server_name import DEFAULT_SERVER_NAME
from sealserve.client.tls import OwnerCertificates

__all__ = [
    "DEFAULT_SERVER_NAME",
    "Claims",
    "Client",
    "ConnectionLostError",
    "DeadlinePassedError",
    "EvidenceMissingError",
    "InsecureClient",
    "MalformedReplyError",
    "ModelMetadata",
    "ModelNotAcceptedError",
    "ModelNotServedError",
    "NotProcessedError",
    "OwnerCertificates",
    "Prediction",
    "Reply",
    "RequestRefusedError",
    "RestReply",
    "ServedModel",
    "ServerFaultError",
    "ServerNotAcceptedError",
    "Signature",
    "TargetUnreachableError",
    "TensorSpec",
    "VerifiedReplica",
    "attest",
    "imagenet_labels",
]
