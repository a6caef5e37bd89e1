"""What the host tells a replica."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ReplicaSettings:
    """What the host tells a replica. Nothing of it is trusted; under Gramine all of it stands in the manifest.

    :param listen: ``host:port`` for gRPC. :param rest_listen: the same for REST; none without it.
    :param metrics_listen: the same for metrics alone.
    :param brokers: ``host:port`` each, tried in order.
    :param platform: directory of the simulated platform, for ``simulated`` alone.
    :param broker_timeout: seconds to keep trying for a grant.
    :param keep_asking: ask for the first grant for as long as it takes, instead of ending when no broker answers in
        time or one refuses.
    :param stop_grace: seconds that requests in flight have after SIGTERM.
    :param most_threads: how many threads of the engine there is room for; None where there is no such limit.
    :param max_connection_age: seconds after which a connection is closed in good order; None for never.
    """

    name: str
    listen: str
    brokers: tuple[str, ...]
    broker_ca: Path
    deployment: str
    sealed: Path
    server_name: str
    tee: Literal["simulated", "sgx", "tdx"] = "simulated"
    platform: Path | None = None
    broker_timeout: float = 30.0
    keep_asking: bool = False
    stop_grace: float = 10.0
    max_connection_age: float | None = None
    rest_listen: str | None = None
    metrics_listen: str | None = None
    most_threads: int | None = None
