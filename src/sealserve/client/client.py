"""The client that checks before it sends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, EncodeError, Message
from numpy.typing import ArrayLike

from sealserve.addresses import parse_address
from sealserve.client.attestation import VerifiedReplica
from sealserve.client.deadline import Deadline
from sealserve.client.errors import (
    ConnectionLostError,
    DeadlinePassedError,
    MalformedReplyError,
    TargetUnreachableError,
)
from sealserve.client.metadata import FIELD, ModelMetadata, read_metadata
from sealserve.client.pool import VerifiedPool, boot_time
from sealserve.client.server_name import DEFAULT_SERVER_NAME, check_server_name
from sealserve.client.status import Code, error_of
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy, VerifiedEvidence
from sealserve.wire.tensorflow_serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
)
from sealserve.wire.tensors import TensorError, from_numpy, to_numpy

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
DEFAULT_SIGNATURE = "serving_default"
DEFAULT_TIMEOUT = 30.0

# A request that reached a server this often without an answer is not sent again: it may be what fells the replicas.
_SENDINGS = 3
# A target that never answered gets this many tries: one balanced server may be down. One that has, is waited for.
_FIRST_TRIES = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0

Array = np.ndarray[Any, np.dtype[Any]]
_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True)
class Prediction:
    """An answer, and who gave it.

    :param outputs: by name. :param model_version: that answered.
    :param verified: the replica whose TLS key the answer came under, and its evidence.
    :param seconds: from the call to the answer, with connecting, checking and repeating where that was needed.
    """

    outputs: dict[str, Array]
    model_version: int
    verified: VerifiedReplica
    seconds: float

    @property
    def replica(self) -> str:
        """The name of the replica that answered, as its evidence has it."""
        return self.verified.name

    @property
    def evidence(self) -> VerifiedEvidence:
        """The accepted evidence of the replica that answered."""
        return self.verified.evidence


class Client:
    """Calls models on attested replicas; may be used from many threads.

    No byte of an input leaves before the replica at the other end of the very connection that carries it was appraised
    by ``policy``, at most ``max_evidence_age`` seconds ago.

    :param target: ``host:port`` of a replica, or of a gateway that passes TLS through.
    :param policy: what enclaves to accept; replace it by assigning :attr:`policy`.
    :param server_name: TLS server name (SNI) by which a gateway routes.
    :param max_evidence_age: seconds. :param max_connections: open at the same time; each carries one call at a time.
    :param max_reply_bytes: the largest answer to take. :param clock: monotonic seconds, by which evidence ages.
    """

    def __init__(
        self,
        target: str,
        policy: AppraisalPolicy,
        *,
        server_name: str = DEFAULT_SERVER_NAME,
        max_evidence_age: float = 300.0,
        max_connections: int = 16,
        max_reply_bytes: int = 256 * 1024 * 1024,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        if not isinstance(policy, AppraisalPolicy):
            raise InputError("a client needs an appraisal policy", hint="Load one with AppraisalPolicy.load(path).")
        if max_connections < 1 or not max_evidence_age > 0:
            raise InputError("max_connections and max_evidence_age must be positive")
        self._max_reply = max_reply_bytes
        self._closed = False
        self._pool = VerifiedPool(
            parse_address(target),
            policy,
            server_name=check_server_name(server_name),
            max_age=max_evidence_age,
            max_connections=max_connections,
            clock=clock,
        )

    @property
    def policy(self) -> AppraisalPolicy:
        """The policy; a new one holds from the next request on, on connections that are open as well."""
        return self._pool.policy

    @policy.setter
    def policy(self, policy: AppraisalPolicy) -> None:
        self._pool.policy = policy

    def predict(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        model: str,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        outputs: Iterable[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Prediction:
        """Run a model.

        :param inputs: an array for each input of the signature. :param version: the newest that is served, if None.
        :param outputs: names of the outputs to return; all if empty. :param timeout: seconds for all of it.
        :raises TrustError: the replica is not accepted; nothing of the inputs was sent to it.
        :raises InputError: the server says that the request is wrong, or an input has no TensorFlow type.
        :raises UnavailableError: no replica answered in time.
        """
        started = time.monotonic()
        deadline = Deadline(timeout)
        request = PredictRequest(model_spec=_model_spec(model, version, signature), output_filter=outputs)
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(from_numpy(np.asarray(value)))
        response, replica = self._call(PREDICT, request, PredictResponse, deadline)
        try:
            left, arrays = self._max_reply, {}
            for name, tensor in response.outputs.items():
                arrays[name] = array = to_numpy(tensor, max_bytes=max(left, 0))
                left -= array.nbytes
        except TensorError as error:
            raise MalformedReplyError(f"the server sent an output that cannot be read: {error.message}") from error
        return Prediction(arrays, response.model_spec.version.value, replica, time.monotonic() - started)

    def metadata(self, model: str, *, version: int | None = None, timeout: float = DEFAULT_TIMEOUT) -> ModelMetadata:
        """The signatures of a model; errors as :meth:`predict`."""
        request = GetModelMetadataRequest(model_spec=_model_spec(model, version, ""), metadata_field=[FIELD])
        response, _ = self._call(GET_MODEL_METADATA, request, GetModelMetadataResponse, Deadline(timeout))
        return read_metadata(response)

    def verify(self, *, timeout: float = DEFAULT_TIMEOUT) -> VerifiedReplica:
        """Connect to a replica and check it, without sending anything else; errors as :meth:`predict`."""
        with self._pool.borrow(Deadline(timeout)) as borrowed:
            return borrowed.replica

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
        self, path: str, request: Message, response: type[_Response], deadline: Deadline
    ) -> tuple[_Response, VerifiedReplica]:
        """Call a method that may be repeated. Repeats where another replica, or a later moment, may answer."""
        try:
            message = request.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise InputError("the request is too large for one message (2 GiB)", hint="Send fewer inputs.") from error
        tries = sendings = 0
        while True:
            if self._closed:
                raise InputError("this client was closed")
            tries += 1
            sent = False
            try:
                with self._pool.borrow(deadline) as borrowed:
                    sent = True
                    reply = borrowed.connection.call(path, message, deadline=deadline, max_reply=self._max_reply)
                if reply.status == Code.OK:
                    return response.FromString(reply.message), borrowed.replica
                raise error_of(reply)
            except DecodeError as error:
                raise MalformedReplyError("the server's answer is malformed") from error
            except (TargetUnreachableError, ConnectionLostError, DeadlinePassedError) as error:
                sendings += sent
                if sendings >= _SENDINGS or (not self._pool.reached and tries >= _FIRST_TRIES):
                    raise
                self._pause(tries, deadline, error)

    @staticmethod
    def _pause(tries: int, deadline: Deadline, error: Exception) -> None:
        """Wait before the next try: longer each time, and not in step with other clients.

        :raises: ``error`` itself, if the deadline comes first: it says more than that time ran out.
        """
        pause = min(_FIRST_PAUSE * 2.0 ** (tries - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311
        try:
            left = deadline.remaining("trying again")
        except DeadlinePassedError:
            raise error from None
        if left <= pause:
            raise error
        time.sleep(pause)


def _model_spec(model: str, version: int | None, signature: str) -> ModelSpec:
    spec = ModelSpec(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec
