"""The client that checks before it sends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import ArrayLike

from sealserve.client.attestation import VerifiedReplica
from sealserve.client.calls import Answer, calls_of
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.headers import Metadata
from sealserve.client.judgements import Judgements, boot_time
from sealserve.client.messages import Prediction, answering_models, is_inference
from sealserve.client.metadata import ModelMetadata
from sealserve.client.pool import Borrowed, VerifiedPool
from sealserve.client.protocols import GRPC, REST, Exchange, Grpc, Rest, UnaryCall
from sealserve.client.receipts import ReceiptWish, with_wish
from sealserve.client.reply import Reply
from sealserve.client.rest.reply import RestReply
from sealserve.client.rest.request import Headers, RestRequest
from sealserve.client.retries import RETRIED, Retries
from sealserve.client.settings import DEFAULT_SIGNATURE, DEFAULT_TIMEOUT, Limits, require_policy
from sealserve.client.tls import OwnerCertificates
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy

_Result = TypeVar("_Result")


class Caller:
    """What clients with and without evidence have in common; may be used from many threads."""

    def __init__(self, pool: VerifiedPool, limits: Limits) -> None:
        self._pool = pool
        self._max_reply = limits.max_reply_bytes
        self._calls = calls_of(pool.protocol, limits.max_reply_bytes)
        self._closed = False

    def predict(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        model: str,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        outputs: Iterable[str] = (),
        receipt: bool = False,
        compress: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Prediction:
        """Run a model.

        :param inputs: an array for each input of the signature; arrays must not change until this returns.
        :param version: the newest that is served, if None. :param outputs: names of those to return; all if empty.
        :param receipt: ask for one, which is checked and kept with the answer (``docs/receipts.md``); over gRPC.
        :param compress: send the inputs with gzip; over REST. How well they shrink shows in the length of what is sent,
            which encryption does not hide.
        :param timeout: seconds for all of it.
        :raises TrustError: the server is not accepted; nothing of the inputs was sent to it. Or its receipt is missing
            or wrong; the answer is withheld.
        :raises InputError: the server says that the request is wrong, or an input has no TensorFlow type.
        :raises UnavailableError: no server answered in time.
        """
        started = time.monotonic()
        deadline = Deadline(timeout)
        request = self._calls.predict(
            inputs, model=model, signature=signature, version=version, outputs=outputs, compress=compress
        )
        request, wish = with_wish(request, self._pool.policy) if receipt else (request, None)

        def read(reply: Any, borrowed: Borrowed) -> Answer:
            answer = self._calls.prediction(reply)
            self._pool.check_answer(borrowed, answer.model, answer.version, deadline)
            if wish is not None:
                wish.check(reply, borrowed.verified, self._pool.policy, answered=((answer.model, answer.version),))
            return answer

        answer, replica = self._call(request, deadline, read, wish=wish)
        checked = wish.receipt if wish else None
        return Prediction(answer.outputs(), answer.version, replica, time.monotonic() - started, checked)

    def metadata(self, model: str, *, version: int | None = None, timeout: float = DEFAULT_TIMEOUT) -> ModelMetadata:
        """The signatures of a model; errors as :meth:`predict`."""
        request = self._calls.metadata(model, version)
        return self._call(request, Deadline(timeout), lambda reply, _: self._calls.signatures(reply))[0]

    def call(
        self,
        method: str,
        message: bytes,
        *,
        metadata: Metadata = (),
        receipt: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Reply:
        """Call any unary method, whose messages this client does not know.

        An inference is repeated where nobody answered; others only when it is certain that no server began with them. A
        status that the server gives is in the reply and is not raised, but for CANCELLED, which is a lost connection.

        :param method: ``/package.Service/Method``. :param message: serialized. :param metadata: to send along.
        :param receipt: as of :meth:`predict`; it is in the reply, if that has a message.
        :raises TrustError: the server is not accepted. :raises UnavailableError: no server answered in time.
        :raises InputError: method or metadata cannot be sent, or the target speaks REST.
        """
        require_protocol(self._pool.protocol, GRPC)
        deadline = Deadline(timeout)

        def read(reply: Reply, borrowed: Borrowed) -> Reply:
            answered = answering_models(method, reply) if self._pool.lists_models or wish else ()
            for name, version in answered if self._pool.lists_models else ():
                self._pool.check_answer(borrowed, name, version, deadline)
            if wish is not None and not reply.status:
                receipt = wish.check(reply, borrowed.verified, self._pool.policy, answered=answered)
                return replace(reply, receipt=receipt)
            return reply

        call = UnaryCall(method, [message], self._max_reply, metadata)
        request, wish = with_wish(call, self._pool.policy) if receipt else (call, None)
        return self._call(request, deadline, read, repeatable=is_inference(method), wish=wish)[0]

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Headers = (),
        timeout: float = DEFAULT_TIMEOUT,
    ) -> RestReply:
        """Send any REST request, and take the answer as it is.

        An inference, GET and HEAD are repeated where nobody answered; others only when it is certain that no server
        began with them. A status that the server gives is in the reply and is not raised.

        :param method: ``GET``, ``HEAD`` or ``POST``. :param path: ``/v1/models/m:predict``, escaped, with its query.
        :param headers: to send along. Answers are not asked for compressed.
        :raises TrustError: the server is not accepted. :raises UnavailableError: no server answered in time.
        :raises InputError: it cannot be sent, or the target speaks gRPC.
        """
        require_protocol(self._pool.protocol, REST)
        deadline = Deadline(timeout)
        request = RestRequest(method, path, [body], headers, self._max_reply)

        def read(reply: RestReply, borrowed: Borrowed) -> RestReply:
            if self._pool.lists_models and (answering := request.answering_model(reply)):
                self._pool.check_answer(borrowed, *answering, deadline)
            return reply

        return self._call(request, deadline, read, repeatable=request.repeatable)[0]

    @property
    def protocol(self) -> Grpc | Rest:
        """What the target speaks."""
        return self._pool.protocol

    def drop_connections(self) -> None:
        """Let later calls make new connections, which a balancer may send to other replicas."""
        self._pool.drop_connections()

    def close(self) -> None:
        """Close all connections; calls that are under way end first."""
        self._closed = True
        self._pool.drop_connections(for_good=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        request: Exchange,
        deadline: Deadline,
        read: Callable[[Any, Borrowed], _Result],
        *,
        repeatable: bool = True,
        wish: ReceiptWish | None = None,
    ) -> tuple[_Result, VerifiedReplica | None]:
        retries = Retries(deadline, repeatable=repeatable)
        while True:
            if self._closed:
                raise InputError("this client was closed")
            sent = answered = False
            try:
                with self._pool.borrow(deadline) as borrowed:
                    sent = True
                    reply = borrowed.connection.run(
                        request, deadline, while_waiting=wish.hash_request if wish else None
                    )
                    answered = True
                    if reply.failed:
                        self._pool.doubt(borrowed)
                    return (read(reply, borrowed), borrowed.replica)
            except RETRIED as error:
                pause = retries.pause_after(error, sent=sent, answered=answered, reached=self._pool.reached)
                time.sleep(pause)


class Client(Caller):
    """Calls models on attested replicas; may be used from many threads.

    No byte of an input leaves before the replica at the other end of the very connection that carries it was appraised
    by ``policy``, at most ``max_evidence_age`` seconds ago.

    :param target: of a replica, or of a gateway that passes TLS through: ``host:port`` speaks gRPC,
        ``https://host:port`` speaks REST.
    :param policy: what enclaves to accept; replace it by assigning :attr:`policy`.
    :param server_name: TLS server name (SNI) by which a gateway routes.
    :param certificates: of the owner, to be checked or shown beside the evidence.
    :param max_evidence_age: seconds. :param max_connections: open at the same time; each carries one call at a time.
    :param max_reply_bytes: the largest answer to take. :param clock: monotonic seconds, by which evidence ages.
    """

    def __init__(
        self,
        target: str,
        policy: AppraisalPolicy,
        *,
        server_name: str | None = None,
        certificates: OwnerCertificates | None = None,
        max_evidence_age: float = 300.0,
        max_connections: int = 16,
        max_reply_bytes: int = 256 * 1024 * 1024,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        limits = Limits(max_evidence_age, max_connections, max_reply_bytes)
        endpoint = Endpoint.attested(target, server_name, certificates)
        judgements = Judgements(endpoint.address, max_age=max_evidence_age, clock=clock)
        super().__init__(
            VerifiedPool(endpoint, require_policy(policy), judgements, max_connections=max_connections), limits
        )

    @property
    def policy(self) -> AppraisalPolicy:
        """The policy; a new one holds from the next request on, on connections that are open as well."""
        return require_policy(self._pool.policy)

    @policy.setter
    def policy(self, policy: AppraisalPolicy) -> None:
        self._pool.policy = require_policy(policy)

    def verify(self, *, timeout: float = DEFAULT_TIMEOUT) -> VerifiedReplica:
        """Connect to a replica and check it, without sending anything else; errors as :meth:`predict`."""
        with self._pool.borrow(Deadline(timeout)) as borrowed:
            return borrowed.verified


class InsecureClient(Caller):
    """Calls models on a server that it knows by its certificate alone: it takes the owner's word for what runs there.

    For TensorFlow Serving as it is, and for replicas whose platform is trusted anyway.

    :param certificates: what to check the server by; see :class:`Client` for the rest.
    """

    def __init__(
        self,
        target: str,
        certificates: OwnerCertificates,
        *,
        server_name: str | None = None,
        max_connections: int = 16,
        max_reply_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        limits = Limits(1.0, max_connections, max_reply_bytes)
        endpoint = Endpoint.by_certificate(target, server_name, certificates)
        judgements = Judgements(endpoint.address, max_age=1.0)
        super().__init__(VerifiedPool(endpoint, None, judgements, max_connections=max_connections), limits)


def require_protocol(spoken: Grpc | Rest, wanted: Grpc | Rest) -> None:
    """:raises InputError: the target speaks the other one."""
    if spoken is not wanted:
        known = {GRPC: ("gRPC", "host:port"), REST: ("REST", "https://host:port")}
        raise InputError(
            f"this client speaks {known[spoken][0]}, and this is a call of {known[wanted][0]}",
            hint=f"Make a client with the target {known[wanted][1]}.",
        )
