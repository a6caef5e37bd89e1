"""What strangers may hold of a server at once. Anybody can connect, so that every resource has a bound.

The names of gRPC's settings are those of ``include/grpc/impl/channel_arg_names.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sealserve.errors import InputError

_FOREVER = (1 << 31) - 1  # milliseconds
_SPARE_THREADS = 8  # for health checks, and for requests that were ended and are on their way out


@dataclass(frozen=True)
class Limits:
    """Bounds of a server; see ``docs/serving-limits.md`` for what happens at each.

    :ivar message_bytes: of one request or answer.
    :ivar buffered_bytes: of all requests and answers that the server holds at once.
    :ivar receiving: requests of which the headers are there and the message is not. For a new one, the oldest goes
        of the connection that has most.
    :ivar working: requests that are queued or computed. More are refused.
    :ivar receive_seconds: in which a request's message must arrive after its headers.
    :ivar answer_seconds: in which the caller must have taken its answer.
    :ivar connections: of all callers together.
    :ivar streams: requests at once on one connection.
    :ivar header_bytes: of one request's headers.
    :ivar handshake_seconds: in which a connection must have spoken TLS and HTTP/2.
    :ivar idle_seconds: after which a connection without requests is closed.
    :ivar connection_seconds: after which a connection is closed in good order, so that clients behind a layer-4
        balancer come to other replicas; None for never. ``connection_grace_seconds`` more for its requests.
    :ivar arguments: further settings of gRPC, in the place of those that it has here otherwise.
    :raises InputError: a bound is not positive, or a message may be larger than all together.
    """

    message_bytes: int = 256 << 20
    buffered_bytes: int = 1 << 30
    receiving: int = 64
    working: int = 64
    receive_seconds: float = 30.0
    answer_seconds: float = 30.0
    connections: int = 512
    streams: int = 100
    header_bytes: int = 16 << 10
    handshake_seconds: float = 10.0
    idle_seconds: float = 600.0
    connection_seconds: float | None = None
    connection_grace_seconds: float | None = None
    arguments: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and value <= 0:
                raise InputError(f"the limit {name} must be above 0, and is {value}")
        if self.message_bytes > self.buffered_bytes:
            raise InputError("the limit message_bytes must not be above buffered_bytes")

    @property
    def threads(self) -> int:
        """How many threads the server may start for requests."""
        return self.receiving + self.working + _SPARE_THREADS

    def grpc_options(self) -> list[tuple[str, int]]:
        """The bounds that gRPC itself keeps."""
        options: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_send_message_length", self.message_bytes),
            # Identity alone (bit 0): 4 MB of gzip can be 4 GB of memory before a limit is looked at.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_allowed_incoming_connections", self.connections),
            # Soft and hard: between two different values gRPC would refuse by chance.
            ("grpc.max_metadata_size", self.header_bytes),
            ("grpc.absolute_max_metadata_size", self.header_bytes),
            ("grpc.server_handshake_timeout_ms", _milliseconds(self.handshake_seconds)),
            ("grpc.max_connection_idle_ms", _milliseconds(self.idle_seconds)),
            # Dead peers are found, and those that ping without reason are sent away.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 2),
        ]
        if self.connection_seconds is not None:
            options.append(("grpc.max_connection_age_ms", _milliseconds(self.connection_seconds)))
        if self.connection_grace_seconds is not None:
            options.append(("grpc.max_connection_age_grace_ms", _milliseconds(self.connection_grace_seconds)))
        return list({**dict(options), **self.arguments}.items())


def _milliseconds(seconds: float) -> int:
    return min(max(1, round(seconds * 1000)), _FOREVER)
