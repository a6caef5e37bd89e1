"""For programs that speak gRPC already: a verified ``grpc.Channel``, and a local proxy. Both need ``grpcio``.

``grpcio`` does none of the talking to replicas. ADR 61 tells why.
"""

from __future__ import annotations

from sealserve.client.with_grpcio.channel import VerifiedChannel, verified_channel

__all__ = ["VerifiedChannel", "verified_channel"]
