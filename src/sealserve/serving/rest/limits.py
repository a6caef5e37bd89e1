"""What callers of the REST API may hold at once."""

from __future__ import annotations

from dataclasses import dataclass

from sealserve.errors import InputError


@dataclass(frozen=True)
class RestLimits:
    """Bounds of a REST server; all positive.

    :ivar threads: requests that are computed at once (``rest_api_num_threads``).
    :ivar waiting: further requests that wait for a thread. More are refused with 429.
    :ivar timeout_seconds: from a request's headers to its answer (``rest_api_timeout_in_ms``); 504 after that.
    :ivar receive_seconds: in which a body must arrive after its headers; 408 after that. A connection that brings no
        whole headers ends after ``idle_seconds``.
    :ivar answer_seconds: in which the caller must have taken its answer.
    :ivar body_bytes: of one request, sent and after decompression; 413 beyond.
    :ivar buffered_bytes: of all requests, parsed or not, and answers that the server holds at once; 503 beyond.
    :ivar connections: of all callers together. For a new one, the connection that was idle longest goes.
    :ivar handshake_seconds: in which a connection must have spoken TLS.
    :ivar idle_seconds: after which a connection without a request is closed.
    :ivar connection_seconds: after which a connection ends with its next answer, so that clients behind a layer-4
        balancer come to other replicas; None for never.
    :raises InputError: a bound is not positive, or one body may be larger than all together.
    """

    threads: int = 16
    waiting: int = 64
    timeout_seconds: float = 30.0
    receive_seconds: float = 30.0
    answer_seconds: float = 30.0
    body_bytes: int = 64 << 20
    buffered_bytes: int = 1 << 30
    connections: int = 1024
    handshake_seconds: float = 10.0
    idle_seconds: float = 75.0
    connection_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise InputError(f"the limit {name} must be above 0, and is {value}")
        if self.body_bytes > self.buffered_bytes:
            raise InputError("the limit body_bytes must not be above buffered_bytes")
