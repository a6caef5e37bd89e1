"""A replica, from process start to the last answer: attest, get the key, unseal in memory, load, serve, stop."""

from __future__ import annotations

import os
import signal
from types import FrameType

from sealserve.enclave.environment import drop_environment
from sealserve.enclave.hardening import harden_process
from sealserve.enclave.settings import ReplicaSettings


def run_replica(settings: ReplicaSettings) -> None:
    """Attest, unseal, serve until SIGTERM or SIGINT, finish what is in flight, and return. Runs in the main thread.

    While it serves it asks the broker again, and follows what the grant says then (:mod:`sealserve.enclave.refresh`).
    The process gives up its environment for good (:mod:`sealserve.enclave.environment`).

    :raises TrustError: the broker refused, or the sealed model is not what the broker says it is.
    :raises SealserveError: anything else that keeps the replica from serving.
    """
    signal.signal(signal.SIGTERM, _end)
    drop_environment()
    harden_process()
    # Only now: the libraries that this imports read the environment.
    from sealserve.enclave.life import live

    live(settings)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    """Until the replica serves. The first process of a container is ended by no signal that it does not handle."""
    os._exit(128 + number)
