"""For programs that speak gRPC already: verified channels, with and without asyncio, and a local proxy. All need
``grpcio``.

``grpcio`` does none of the talking to replicas. ADR 61 tells why.
"""

from __future__ import annotations

from sealserve.client.with_grpcio.aio_channel import VerifiedAioChannel, verified_aio_channel
from sealserve.client.with_grpcio.channel import VerifiedChannel, verified_channel

__all__ = ["VerifiedAioChannel", "VerifiedChannel", "verified_aio_channel", "verified_channel"]
