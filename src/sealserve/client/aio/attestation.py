"""Getting evidence and judging it, as :mod:`sealserve.client.attestation` does, without stopping the event loop."""

from __future__ import annotations

import asyncio

from sealserve.client.aio.connection import AsyncConnection, connect
from sealserve.client.attestation import (
    CONNECT_SECONDS,
    EVIDENCE_SECONDS,
    EvidenceQuestion,
    VerifiedReplica,
    judge,
)
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.errors import MalformedReplyError
from sealserve.client.tls import OwnerCertificates
from sealserve.evidence import AppraisalPolicy


async def attest(
    target: str,
    policy: AppraisalPolicy,
    *,
    server_name: str | None = None,
    certificates: OwnerCertificates | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109 - the same surface as without asyncio
) -> VerifiedReplica:
    """Check the replica at ``target``; see :func:`sealserve.client.attest`."""
    deadline = Deadline(timeout)
    endpoint = Endpoint.attested(target, server_name, certificates)
    connection = await connect(endpoint, deadline.within(CONNECT_SECONDS))
    try:
        return await ask_and_judge(connection, policy, deadline)
    finally:
        connection.close()


async def ask_and_judge(connection: AsyncConnection, policy: AppraisalPolicy, deadline: Deadline) -> VerifiedReplica:
    """Ask for evidence on a connection; errors as ``request_evidence`` and ``judge`` without asyncio."""
    question = EvidenceQuestion(connection.protocol)
    try:
        answer = await connection.run(question.exchange, deadline.within(EVIDENCE_SECONDS))
        presented = question.read(answer, connection.peer)
    except MalformedReplyError as error:
        raise question.not_answered(error) from error
    return await asyncio.to_thread(judge, presented, policy)
