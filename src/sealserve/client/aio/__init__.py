"""The client for asyncio: the same promises and the same surface as :mod:`sealserve.client`.

A client belongs to the event loop that it was first used in. A call that is cancelled leaves no half-used connection
behind. Evidence is judged in a thread, so that the loop goes on meanwhile.
"""

from __future__ import annotations

from sealserve.client.aio.attestation import attest
from sealserve.client.aio.client import AsyncClient, InsecureAsyncClient

__all__ = ["AsyncClient", "InsecureAsyncClient", "attest"]
