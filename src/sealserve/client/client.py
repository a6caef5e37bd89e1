"""The client that checks before it sends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from numpy.typing import ArrayLike

from sealserve.client.attestation import VerifiedReplica
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.headers import Metadata
from sealserve.client.judgements import Judgements, boot_time
from sealserve.client.messages import (
    GET_MODEL_METADATA,
    PREDICT,
    Prediction,
    answering_model,
    metadata_request,
    parse,
    predict_request,
    read_outputs,
)
from sealserve.client.metadata import FIELD, ModelMetadata, read_metadata
from sealserve.client.pool import Borrowed, VerifiedPool
from sealserve.client.receipts import ReceiptWish
from sealserve.client.reply import Reply
from sealserve.client.retries import RETRIED, Retries
from sealserve.client.settings import DEFAULT_SIGNATURE, DEFAULT_TIMEOUT, Limits, require_policy
from sealserve.client.status import Code, error_of
from sealserve.client.tls import OwnerCertificates
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy
from sealserve.wire.tensorflow_serving_pb2 import GetModelMetadataResponse, PredictResponse

_Result = TypeVar("_Result")


class Caller:
    """What clients with and without evidence have in common; may be used from many threads."""

    def __init__(self, pool: VerifiedPool, limits: Limits) -> None:
        self._pool = pool
        self._max_reply = limits.max_reply_bytes
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
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Prediction:
        """Run a model.

        :param inputs: an array for each input of the signature; arrays must not change until this returns.
        :param version: the newest that is served, if None. :param outputs: names of those to return; all if empty.
        :param receipt: ask for one, which is checked and kept with the answer (``docs/receipts.md``).
        :param timeout: seconds for all of it.
        :raises TrustError: the server is not accepted; nothing of the inputs was sent to it. Or its receipt is missing
            or wrong; the answer is withheld.
        :raises InputError: the server says that the request is wrong, or an input has no TensorFlow type.
        :raises UnavailableError: no server answered in time.
        """
        started = time.monotonic()
        deadline = Deadline(timeout)
        message = predict_request(inputs, model=model, signature=signature, version=version, outputs=outputs)
        wish = self._wish(PREDICT, message) if receipt else None

        def read(reply: Reply, borrowed: Borrowed) -> PredictResponse:
            response = parse(PredictResponse, require_success(reply).message)
            spec = response.model_spec
            self._pool.check_answer(borrowed, spec.name, spec.version.value, deadline)
            if wish is not None:
                answered = (spec.name, spec.version.value)
                wish.check(reply, borrowed.verified, self._pool.policy, answered=answered)
            return response

        response, replica = self._call(PREDICT, message, deadline, read, wish=wish)
        arrays = read_outputs(response, self._max_reply)
        checked = wish.receipt if wish else None
        return Prediction(arrays, response.model_spec.version.value, replica, time.monotonic() - started, checked)

    def metadata(self, model: str, *, version: int | None = None, timeout: float = DEFAULT_TIMEOUT) -> ModelMetadata:
        """The signatures of a model; errors as :meth:`predict`."""
        reply, _ = self._call(
            GET_MODEL_METADATA,
            metadata_request(model, version, FIELD),
            Deadline(timeout),
            lambda reply, _: require_success(reply),
        )
        return read_metadata(parse(GetModelMetadataResponse, reply.message))

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

        It is repeated only when it is certain that no server began with it. A status that the server gives is in the
        reply and is not raised.

        :param method: ``/package.Service/Method``. :param message: serialized. :param metadata: to send along.
        :param receipt: as of :meth:`predict`; it is in the reply, if that has a message.
        :raises TrustError: the server is not accepted. :raises UnavailableError: no server answered in time.
        :raises InputError: method or metadata cannot be sent.
        """
        deadline = Deadline(timeout)

        def read(reply: Reply, borrowed: Borrowed) -> Reply:
            if self._pool.lists_models and (answering := answering_model(method, reply)):
                self._pool.check_answer(borrowed, *answering, deadline)
            if wish is not None and not reply.status:
                return replace(reply, receipt=wish.check(reply, borrowed.verified, self._pool.policy))
            return reply

        wish = self._wish(method, [message]) if receipt else None
        return self._call(method, [message], deadline, read, metadata, repeatable=False, wish=wish)[0]

    def _wish(self, method: str, message: Sequence[bytes | memoryview]) -> ReceiptWish:
        require_evidence_for_receipts(self._pool.policy)
        return ReceiptWish(method, message)

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
        method: str,
        message: Sequence[bytes | memoryview],
        deadline: Deadline,
        read: Callable[[Reply, Borrowed], _Result],
        metadata: Metadata = (),
        *,
        repeatable: bool = True,
        wish: ReceiptWish | None = None,
    ) -> tuple[_Result, VerifiedReplica | None]:
        if wish is not None:
            metadata = (*metadata, *wish.metadata)
        retries = Retries(deadline, repeatable=repeatable)
        while True:
            if self._closed:
                raise InputError("this client was closed")
            sent = False
            try:
                with self._pool.borrow(deadline) as borrowed:
                    sent = True
                    reply = borrowed.connection.call(
                        method,
                        message,
                        deadline=deadline,
                        max_reply=self._max_reply,
                        metadata=metadata,
                        while_waiting=wish.hash_request if wish else None,
                    )
                    return (read(reply, borrowed), borrowed.replica)
            except RETRIED as error:
                time.sleep(retries.pause_after(error, sent=sent, reached=self._pool.reached))


class Client(Caller):
    """Calls models on attested replicas; may be used from many threads.

    No byte of an input leaves before the replica at the other end of the very connection that carries it was appraised
    by ``policy``, at most ``max_evidence_age`` seconds ago.

    :param target: ``host:port`` of a replica, or of a gateway that passes TLS through.
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


def require_evidence_for_receipts(policy: AppraisalPolicy | None) -> None:
    """:raises InputError: there is no policy: nobody would know whose signature it is."""
    if policy is None:
        raise InputError("a receipt was asked for without evidence", hint="Use Client, with a policy.")


def require_success(reply: Reply) -> Reply:
    """The reply itself. :raises SealserveError: its status is not OK."""
    if reply.status != Code.OK:
        raise error_of(reply)
    return reply
