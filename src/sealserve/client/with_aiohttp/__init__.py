"""The local proxy for programs that speak REST. It needs ``aiohttp``, whose server programs talk to.

``aiohttp`` does none of the talking to replicas. ADR 62 tells why.
"""

from __future__ import annotations

from sealserve.client.with_aiohttp.proxy import RestProxy

__all__ = ["RestProxy"]
