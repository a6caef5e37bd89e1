"""The sign of a server that stops: it did not begin with the request, so whoever asked may ask another server."""

from __future__ import annotations

NOT_BEGUN = "sealserve-not-begun"
"""gRPC trailing metadata beside UNAVAILABLE, a header beside HTTP's 503. The value is the reason."""

STOPPING = "stopping"
"""The only reason so far: further requests on the same connection will fare no better."""
