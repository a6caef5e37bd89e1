"""The enclaves' side of protocol version 2: ask key brokers, one after the other, for a grant.

The broker is authenticated by the certificate authority that the caller gives, which should be part of the enclave's
measurement: otherwise the host could answer with a broker, and a model, of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from sealserve.addresses import Address, parse_address
from sealserve.broker.grant import Grant, ModelGrant, PreviousModel, ReleasedKey, TlsMaterial
from sealserve.broker.messages import (
    ALPN,
    MAX_ANSWER,
    MAX_HELLO,
    Evidence,
    Granted,
    Hello,
    ProtocolError,
    Request,
    Tls,
    decode,
    decode_answer,
    encode,
    read_frame,
    write_frame,
)
from sealserve.errors import BrokerRefusedError, ConfigurationError, UnavailableError
from sealserve.evidence import Attester
from sealserve.logs import event, get_logger
from sealserve.ratls import TlsIdentity
from sealserve.ratls.binding import EXPORTER_LABEL, EXPORTER_SIZE, broker_report_data
from sealserve.ratls.contexts import ClientContext, ServerNotTrustedError, SignedByAuthority, client_context
from sealserve.ratls.stream import TlsStream, connect
from sealserve.secret import Secret

__all__ = [
    "BrokersUnavailableError",
    "Grant",
    "GrantRefusedError",
    "ModelGrant",
    "PreviousModel",
    "ReleasedKey",
    "fetch_grant",
    "request_grant",
]

_log = get_logger(__name__)

ATTEMPT_SECONDS = 10.0
"""How long one broker may take, within the caller's timeout."""
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


class GrantRefusedError(BrokerRefusedError):
    """The broker looked at the evidence or the request and said no. Asking it again gives the same answer.

    :ivar decision: the number under which the broker's audit log has the reason.
    """

    def __init__(self, broker: str, reason: str, decision: str) -> None:
        super().__init__(
            f"the key broker {broker} refused to release a key ({reason}, decision {decision})",
            hint=f"The broker's log and its audit log say why: look for decision {decision} there.",
        )
        self.decision = decision


class BrokersUnavailableError(UnavailableError):
    """No broker gave an answer in time.

    :ivar attempts: what was tried last with each broker: its address and what went wrong.
    """

    def __init__(self, attempts: Sequence[tuple[str, str]], timeout: float) -> None:
        tried = "; ".join(f"{broker}: {why}" for broker, why in attempts)
        super().__init__(
            f"no key broker answered within {timeout:g} seconds ({tried})",
            hint="Check that the brokers run and can be reached from here.",
        )
        self.attempts = tuple(attempts)


@dataclass(frozen=True)
class _Question:
    identity: TlsIdentity
    attester: Attester
    request: bytes
    keys: Sequence[str]
    context: ClientContext


async def request_grant(
    brokers: Sequence[str],
    *,
    ca_pem: bytes,
    identity: TlsIdentity,
    attester: Attester,
    deployment: str,
    keys: Sequence[str] = (),
    timeout: float = 30.0,  # noqa: ASYNC109 - brokers, pauses and attempts share it
    failures: MutableMapping[str, str] | None = None,
) -> Grant:
    """Ask brokers in order until one grants or refuses.

    :param brokers: ``host:port``, the preferred one first.
    :param ca_pem: the authority that signed the brokers' certificates. :param identity: whose key the grant is bound
    to.
    :param keys: names of the keys wanted; all of the grant if empty.
    :param timeout: seconds for everything, pauses included.
    :param failures: what went wrong last with each broker. Whoever asks again and again gives the same mapping each
        time, so that a failure is logged when it begins and not with every attempt, and brokers that are away are not
        asked in a hurry each time.
    :returns: a grant, which the caller has to wipe.
    :raises GrantRefusedError: a broker refused; it is final.
    :raises ServerNotTrustedError: no broker that answers has a certificate of the authority.
    :raises BrokersUnavailableError: none could be reached, or gave an answer, in time.
    :raises AttestationError: this machine gives no evidence.
    """
    addresses = [parse_address(broker) for broker in brokers]
    if not addresses:
        raise ConfigurationError("no key broker is given", hint="Name at least one, as host:port.")
    try:
        request = encode(Request(deployment=deployment, keys=list(keys)))
    except ValueError as error:
        raise ConfigurationError(f"{deployment!r} cannot be the name of a deployment") from error
    context = client_context(SignedByAuthority(ca_pem), identity=identity, alpn=[ALPN], minimum_version="1.3")
    question = _Question(identity, attester, request, keys, context)
    known = {} if failures is None else failures
    try:
        async with asyncio.timeout(timeout):
            return await _ask_all(addresses, question, known)
    except TimeoutError:
        attempts = [(str(address), known.get(str(address), "not tried yet")) for address in addresses]
        raise BrokersUnavailableError(attempts, timeout) from None


def fetch_grant(
    brokers: Sequence[str],
    *,
    ca_pem: bytes,
    identity: TlsIdentity,
    attester: Attester,
    deployment: str,
    keys: Sequence[str] = (),
    timeout: float = 30.0,
) -> Grant:
    """:func:`request_grant` for callers without an event loop."""
    return asyncio.run(
        request_grant(
            brokers,
            ca_pem=ca_pem,
            identity=identity,
            attester=attester,
            deployment=deployment,
            keys=keys,
            timeout=timeout,
        )
    )


async def _ask_all(addresses: Sequence[Address], question: _Question, failures: MutableMapping[str, str]) -> Grant:
    pause = _LONGEST_PAUSE if failures else _FIRST_PAUSE
    while True:
        untrusted: list[ServerNotTrustedError] = []
        for address in addresses:
            broker = str(address)
            try:
                grant = await _ask(address, question)
            except (UnavailableError, ServerNotTrustedError) as error:
                if failures.get(broker) != error.message:
                    event(_log, logging.WARNING, "broker-failed", broker=broker, reason=error.message)
                failures[broker] = error.message
                if isinstance(error, ServerNotTrustedError):
                    untrusted.append(error)
            else:
                failures.pop(broker, None)
                return grant
        if len(untrusted) == len(addresses):
            raise untrusted[0]  # every one answered, and waiting does not change a certificate
        # Replicas that start together do not come back together, and hundreds of them do not bury a broker that comes
        # back: each asks it once in two to five seconds.
        await asyncio.sleep(random.uniform(0.4, 1) * pause)  # noqa: S311 - spreads load, keeps no secret
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _ask(address: Address, question: _Question) -> Grant:
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            stream = await connect(address.host, address.port, context=question.context, timeout=ATTEMPT_SECONDS)
            try:
                grant = await _converse(stream, str(address), question)
            except BaseException:
                await _close(stream)
                raise
            try:
                await _close(stream)
            except BaseException:
                grant.wipe()  # nobody gets it
                raise
            return grant
    except TimeoutError:
        raise UnavailableError(f"no answer within {ATTEMPT_SECONDS:g} seconds") from None


async def _close(stream: TlsStream) -> None:
    try:
        await stream.close()
    except asyncio.CancelledError:
        stream.abort()
        raise


async def _converse(stream: TlsStream, broker: str, question: _Question) -> Grant:
    if stream.alpn != ALPN:
        raise ProtocolError(f"{broker} is no key broker of protocol version 2")
    hello = decode(await read_frame(stream, MAX_HELLO), Hello)
    report_data = broker_report_data(
        hello.nonce,
        question.identity.spki_digest,
        stream.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE),
        question.request,
    )
    quote = await asyncio.to_thread(question.attester.quote, report_data)
    await write_frame(stream, encode(Evidence(request=question.request, quote=quote)))
    answer = decode_answer(await read_frame(stream, MAX_ANSWER))
    if isinstance(answer, Granted):
        return _grant(answer, question.keys)
    if answer.reason == "unavailable":
        raise UnavailableError(f"the broker cannot decide now (decision {answer.decision})")
    raise GrantRefusedError(broker, answer.reason, answer.decision)


def _grant(answer: Granted, wanted: Sequence[str]) -> Grant:
    if missing := set(wanted or [answer.model.key]) - set(answer.keys):
        raise ProtocolError(f"the key broker's grant lacks the keys {', '.join(sorted(missing))}")
    keys = {name: ReleasedKey(name, key.version, Secret(key.value)) for name, key in answer.keys.items()}
    return Grant(
        keys=keys,
        model=ModelGrant(**answer.model.model_dump()),
        arguments=dict(answer.arguments),
        decision=answer.decision,
        revision=answer.revision or 0,
        refresh_seconds=answer.refresh,
        previous=_previous(answer),
        tls=None if answer.tls is None else _tls(answer.tls),
    )


def _previous(answer: Granted) -> PreviousModel | None:
    if answer.previous is None:
        return None
    model = ModelGrant(**answer.previous.model.model_dump())
    key = answer.previous.key
    return PreviousModel(model, ReleasedKey(model.key, key.version, Secret(key.value)))


def _tls(message: Tls) -> TlsMaterial:
    return TlsMaterial(message.certificate, Secret(message.key), message.client_authority)
