"""Confidential model serving: sealed models, attested replicas, a key broker, and a client that checks first."""

__version__ = "0.1.0"
