"""Getting evidence from a replica and judging it.

One question, ``sealserve.v1.Attestation/GetEvidence`` or the same over REST, with 32 fresh random bytes. The answer's
quote must carry, as its report data, a hash over those bytes, over the public key of *this connection's* TLS
certificate, and over what the replica claims to serve (``docs/attestation-protocol.md``). So evidence cannot be old
(other nonce), cannot be another replica's (other key: a relay or a man in the middle), and its claims cannot be
changed. Whether the enclave is one to trust is the policy's word.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from sealserve.client.connection import Connection
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.errors import (
    ConnectionLostError,
    EvidenceMissingError,
    MalformedReplyError,
    ModelChangedError,
    ModelChangingError,
    ModelNotAcceptedError,
)
from sealserve.client.protocols import Exchange, Grpc, Rest
from sealserve.client.reply import Reply
from sealserve.client.server_name import DEFAULT_SERVER_NAME
from sealserve.client.status import Code, error_of, printable
from sealserve.client.tls import OwnerCertificates, Peer, TlsFacts
from sealserve.client.transport import connect
from sealserve.evidence import AppraisalPolicy, Collateral, VerifiedEvidence
from sealserve.ratls.binding import client_report_data
from sealserve.wire import attestation_pb2

NONCE_SIZE = 32
CONNECT_SECONDS = 10.0
EVIDENCE_SECONDS = 10.0
"""How long a replica may take to make a connection and to give evidence, within the caller's deadline."""

_HINT = "Check that this is the address of a sealserve replica: host:port for gRPC, https://host:port for REST."
_MAX_MODELS = 1000


@dataclass(frozen=True)
class ServedModel:
    """A model that a replica claims to serve; ``digest`` is that of the sealed model (32 bytes)."""

    name: str
    version: int
    digest: bytes


@dataclass(frozen=True)
class Claims:
    """What a replica says of itself, bound into its evidence.

    :param receipt_key: SubjectPublicKeyInfo (DER) of the key that signs its receipts; empty if it gives none.
    :param shared_tls_key: whether others have its TLS key: its owner, and every enclave that she grants it to. Another
        connection to the same key is not to the same replica then.
    """

    replica: str
    models: tuple[ServedModel, ...]
    receipt_key: bytes = b""
    shared_tls_key: bool = False


@dataclass(frozen=True)
class PresentedEvidence:
    """An answer that nobody has judged yet, and what it must be bound to.

    :param certificate: of the connection it came on. :param spki_digest: SHA-256 of its public key (32 bytes).
    """

    quote: bytes
    claims: bytes
    nonce: bytes
    certificate: x509.Certificate
    spki_digest: bytes
    tls: TlsFacts

    @property
    def report_data(self) -> bytes:
        """The report data that the quote must carry (64 bytes)."""
        return client_report_data(self.nonce, self.spki_digest, self.claims)


@dataclass(frozen=True)
class VerifiedReplica:
    """A replica whose evidence was accepted.

    :param certificate_pem: of the connection that was checked. :param spki_digest: SHA-256 of its public key.
    :param nonce: what the evidence is fresh for. :param verified_at: by this machine's clock, UTC.
    :param presented: the evidence itself, to be kept. :param collateral: that it was judged with.
    """

    evidence: VerifiedEvidence
    certificate_pem: bytes
    spki_digest: bytes
    claims: Claims
    nonce: bytes
    verified_at: datetime
    presented: PresentedEvidence | None = None
    collateral: Collateral | None = None

    @property
    def name(self) -> str:
        """The name that the replica has in its deployment."""
        return self.claims.replica

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "replica": self.name,
            "key_sha256": self.spki_digest.hex(),
            "nonce": self.nonce.hex(),
            "verified_at": self.verified_at.isoformat(timespec="seconds"),
            "models": [{"name": m.name, "version": m.version, "digest": m.digest.hex()} for m in self.claims.models],
            "evidence": self.evidence.as_dict(),
        }


def attest(
    target: str,
    policy: AppraisalPolicy,
    *,
    server_name: str = DEFAULT_SERVER_NAME,
    certificates: OwnerCertificates | None = None,
    timeout: float = 10.0,
) -> VerifiedReplica:
    """Check the replica that answers at ``target``, on one connection that is closed afterwards.

    :param target: ``host:port`` for gRPC, ``https://host:port`` for REST.
    :param server_name: sent as SNI. :param certificates: of the owner, to be checked or
        shown beside the evidence. :param timeout: seconds for all of it.
    :raises TrustError: there is no evidence, it is not genuine, not bound to this connection, or not accepted.
    :raises UnavailableError: the target cannot be reached or is silent.
    """
    deadline = Deadline(timeout)
    connection = open_connection(Endpoint.attested(target, server_name, certificates), deadline)
    try:
        return judge(request_evidence(connection, deadline), policy)
    finally:
        connection.close()


def open_connection(endpoint: Endpoint, deadline: Deadline) -> Connection:
    """A connection on which nothing was asked yet; see :func:`sealserve.client.transport.connect` for errors."""
    transport = connect(endpoint, deadline.within(CONNECT_SECONDS))
    return Connection(transport, endpoint.protocol, authority=endpoint.authority)


def request_evidence(connection: Connection, deadline: Deadline) -> PresentedEvidence:
    """Ask for evidence with a fresh nonce.

    :raises EvidenceMissingError: the peer is no replica or does not behave like one.
    :raises UnavailableError: it went away, is silent, or cannot give evidence now.
    """
    question = EvidenceQuestion(connection.protocol)
    try:
        return question.read(connection.run(question.exchange, deadline.within(EVIDENCE_SECONDS)), connection.peer)
    except MalformedReplyError as error:
        raise question.not_answered(error) from error


class EvidenceQuestion:
    """One question for evidence: its nonce, and reading what came for it. Whoever asks does the I/O."""

    def __init__(self, protocol: Grpc | Rest) -> None:
        self._nonce = secrets.token_bytes(NONCE_SIZE)
        self._protocol = protocol
        self.exchange: Exchange = protocol.question(attestation_pb2.EvidenceRequest(nonce=self._nonce))

    def not_answered(self, error: MalformedReplyError) -> EvidenceMissingError:
        """What it means that the reply broke a protocol's rule."""
        return EvidenceMissingError(f"no evidence: {error.message}", hint=_HINT)

    def read(self, answer: Any, peer: Peer) -> PresentedEvidence:
        """The evidence in an answer.

        :param peer: of the connection that it came on.
        :raises EvidenceMissingError: there is none. :raises UnavailableError: there is none now.
        :raises MalformedReplyError: it broke a protocol's rule.
        """
        reply: Reply = self._protocol.evidence(answer)
        if reply.status in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}:
            raise error_of(reply)
        if reply.status in {Code.RESOURCE_EXHAUSTED, Code.CANCELLED}:
            # So a replica answers that has too much to do. Nothing was sent to it yet: asking again is safe.
            raise ConnectionLostError(f"the server has no room now: {error_of(reply).message}", hint="Try again.")
        if reply.status != Code.OK:
            raise EvidenceMissingError(f"no evidence: {error_of(reply).message}", hint=_HINT)
        try:
            response = attestation_pb2.EvidenceResponse.FromString(bytes(reply.message))
        except DecodeError as error:
            raise EvidenceMissingError("no evidence: the answer is malformed", hint=_HINT) from error
        return PresentedEvidence(
            quote=response.quote,
            claims=response.claims,
            nonce=self._nonce,
            certificate=peer.certificate,
            spki_digest=peer.key,
            tls=peer.facts,
        )


def judge(presented: PresentedEvidence, policy: AppraisalPolicy) -> VerifiedReplica:
    """Appraise evidence: genuine, bound to nonce, key and claims, accepted by the policy, serving accepted models.

    :raises EvidenceError: it is not genuine or not bound. :raises PolicyRefusedError: the policy does not accept it.
    """
    appraisal = policy.appraise_with_steps(presented.quote, report_data=presented.report_data)
    evidence = appraisal.require()
    claims = parse_claims(presented.claims)
    check_models(claims, policy)
    return VerifiedReplica(
        evidence=evidence,
        certificate_pem=presented.certificate.public_bytes(Encoding.PEM),
        spki_digest=presented.spki_digest,
        claims=claims,
        nonce=presented.nonce,
        verified_at=datetime.now(UTC),
        presented=presented,
        collateral=appraisal.collateral,
    )


def parse_claims(data: bytes) -> Claims:
    """Read serialized claims.

    :raises EvidenceMissingError: they are malformed.
    """
    try:
        claims = attestation_pb2.Claims.FromString(data)
    except DecodeError as error:
        raise EvidenceMissingError("the replica's claims are malformed") from error
    if len(claims.models) > _MAX_MODELS or any(len(model.digest) != 32 for model in claims.models):
        raise EvidenceMissingError("the replica's claims are malformed: too many models, or a digest of a wrong size")
    models = tuple(ServedModel(_name(model.name), model.version, model.digest) for model in claims.models)
    return Claims(_name(claims.replica), models, claims.receipt_key, claims.shared_tls_key)


def _name(text: str) -> str:
    """One line: a name must not look like more of a report than it is."""
    return " ".join(printable(text).split())


def check_answer(replica: VerifiedReplica, policy: AppraisalPolicy, model: str, version: int) -> None:
    """What answered must be one of the models that the evidence names, where the policy lists models.

    A replica that exchanges its model answers with a version that its last evidence does not name: time to ask again.

    :raises ModelChangedError: it is none of them.
    """
    if policy.models and not any((m.name, m.version) == (model, version) for m in replica.claims.models):
        raise ModelChangedError(
            f"the answer is of {printable(model) or 'no model'} version {version}, "
            "which the replica's evidence does not name",
            hint="The replica serves what it did not attest. Tell whoever runs it.",
        )


def check_models(claims: Claims, policy: AppraisalPolicy) -> None:
    """Every model that the replica serves must be on the policy's list, where it has one.

    :raises ModelChangingError: one is and one is not. :raises ModelNotAcceptedError: none is, or none is served.
    """
    accepted = set(policy.models)
    if not accepted:
        return
    others = [f"{m.name} version {m.version} ({m.digest.hex()})" for m in claims.models if m.digest not in accepted]
    if others or not claims.models:
        kind = ModelChangingError if len(others) < len(claims.models) else ModelNotAcceptedError
        raise kind(
            f"the replica serves {', '.join(others) or 'no model'}, which the policy's models do not list",
            hint="If the model was changed on purpose, add its digest to `models` in the policy.",
        )
