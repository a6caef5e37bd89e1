"""Protocol version 2 over real TLS, with real (simulated) evidence: who gets the keys, and who does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import cbor2
import pytest
from broker_parties import (
    DIGEST,
    ENCLAVE,
    OTHER_ENCLAVE,
    SECOND_KEY,
    WRAP_KEY,
    Place,
    answer_of,
    ask,
    full_disk,
    in_loop,
    make_place,
    new_identity,
    running,
    session,
)
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto

from sealserve.addresses import Address
from sealserve.broker.client import GrantRefusedError
from sealserve.broker.messages import (
    ALPN,
    MAX_EVIDENCE,
    MAX_HELLO,
    Evidence,
    Granted,
    Hello,
    ProtocolError,
    Refused,
    Request,
    decode,
    decode_answer,
    encode,
    read_frame,
    write_frame,
)
from sealserve.broker.server import Broker
from sealserve.evidence import SimulatedEnclave
from sealserve.ratls import TlsIdentity, broker_report_data
from sealserve.ratls.binding import EXPORTER_LABEL
from sealserve.ratls.contexts import ClientContext, SignedByAuthority, client_context, server_context
from sealserve.ratls.listener import serve
from sealserve.ratls.stream import TlsConnectionError, TlsStream, connect

REQUEST = encode(Request(deployment="digits"))


def evidence_for(
    place: Place, stream: TlsStream, nonce: bytes, identity: TlsIdentity, *, request: bytes = REQUEST
) -> bytes:
    exporter = stream.export_keying_material(EXPORTER_LABEL, 32)
    quote = place.attester().quote(broker_report_data(nonce, identity.spki_digest, exporter, request))
    return encode(Evidence(request=request, quote=quote))


async def expect_refused(stream: TlsStream, place: Place, reason: str, general: str = "not-granted") -> None:
    """The stranger learns a general reason; the audit log has the real one under the same number."""
    answer = await answer_of(stream)
    assert isinstance(answer, Refused)
    assert answer.reason == general
    record = place.records[-1]
    assert (record["decision"], record["outcome"], record["reason"]) == (answer.decision, "refused", reason)


# --- granted --------------------------------------------------------------------------------------------------------


def test_an_accepted_enclave_gets_its_whole_grant(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            grant = await ask(place, broker, identity)
        assert {name: (key.version, bytes(key.value.reveal())) for name, key in grant.keys.items()} == {
            "wrap": (3, WRAP_KEY),
            "second": (1, SECOND_KEY),
        }
        model = grant.model
        assert (model.name, model.version, model.digest.hex(), model.mount, model.key) == (
            "digits",
            7,
            DIGEST,
            "/models/digits",
            "wrap",
        )
        assert grant.arguments == {"threads": "2"}
        (record,) = place.records
        assert (record["outcome"], record["decision"], record["deployment"]) == ("granted", grant.decision, "digits")
        assert record["keys"] == [{"name": "wrap", "version": 3}, {"name": "second", "version": 1}]
        assert record["evidence"]["mrenclave"] == ENCLAVE.mrenclave.hex()
        assert record["key_sha256"] == identity.spki_digest.hex()
        assert record["simulated"] is True

    in_loop(body)


def test_an_enclave_gets_the_keys_it_asks_for_and_no_others(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            grant = await ask(place, broker, identity, keys=("second", "second"))
            assert list(grant.keys) == ["second"]
            with pytest.raises(GrantRefusedError):
                await ask(place, broker, identity, keys=("wrap", "third"))
        assert [record["outcome"] for record in place.records] == ["granted", "refused"]

    in_loop(body)


def test_keys_never_reach_the_log_or_the_audit_file(
    place: Place, identity: TlsIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    from sealserve.logs import JsonFormatter

    caplog.set_level(logging.DEBUG)

    async def body() -> None:
        async with running(place) as broker:
            await ask(place, broker, identity)
            with pytest.raises(GrantRefusedError):
                await ask(place, broker, identity, deployment="other")

    in_loop(body)
    formatter = JsonFormatter()
    written = json.dumps(place.chain) + "".join(formatter.format(record) for record in caplog.records)
    assert "grant-released" in written
    for key in (WRAP_KEY, SECOND_KEY):
        for form in (key.hex(), key.decode(), repr(key)):
            assert form not in written


# --- refused: the evidence or the request ---------------------------------------------------------------------------


async def refused(place: Place, broker: Broker, identity: TlsIdentity, **options: Any) -> dict[str, Any]:
    with pytest.raises(GrantRefusedError) as caught:
        await ask(place, broker, identity, **options)
    record = place.records[-1]
    assert record["decision"] == caught.value.decision
    # In general terms: nothing of the reason, and the same for all.
    assert record["reason"] not in str(caught.value)
    assert "not-granted" in str(caught.value)
    return record


def test_another_measurement_is_refused(place: Place) -> None:
    async def body() -> None:
        async with running(place) as broker:
            identity = new_identity(place, OTHER_ENCLAVE)
            record = await refused(place, broker, identity, attester=place.attester(OTHER_ENCLAVE))
        assert record["reason"] == "measurement-refused"
        assert record["evidence"]["mrenclave"] == OTHER_ENCLAVE.mrenclave.hex()

    in_loop(body)


def test_a_debug_enclave_is_refused(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        debug = SimulatedEnclave(ENCLAVE.mrenclave, ENCLAVE.mrsigner, debug=True)
        async with running(place) as broker:
            await refused(place, broker, identity, attester=place.attester(debug))

    in_loop(body)


def test_a_platform_under_another_root_is_refused(place: Place, identity: TlsIdentity, tmp_path: Path) -> None:
    async def body() -> None:
        elsewhere = make_place(tmp_path / "elsewhere")
        async with running(place) as broker:
            record = await refused(place, broker, identity, attester=elsewhere.attester())
        assert "evidence" not in record

    in_loop(body)


def test_collateral_that_vanished_is_no_judgement_of_the_evidence(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            (place.platform / "collateral.json").unlink()
            async with session(place, broker, identity) as (stream, nonce):
                await write_frame(stream, evidence_for(place, stream, nonce, identity))
                answer = await answer_of(stream)
            assert isinstance(answer, Refused)
            assert answer.reason == "unavailable"
        assert place.records[-1]["reason"] == "input"

    in_loop(body)


def test_an_unknown_deployment_looks_like_any_other_refusal(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            record = await refused(place, broker, identity, deployment="unknown")
        assert record["reason"] == "unknown-grant"

    in_loop(body)


def test_one_enclaves_grant_is_not_anothers(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        place.add_policy("letters.yaml", OTHER_ENCLAVE)
        place.put_policy("letters")
        place.put(deployment="letters", policy="letters")
        async with running(place) as broker:
            await ask(place, broker, identity, deployment="digits")
            await refused(place, broker, identity, deployment="letters")

    in_loop(body)


# --- refused: evidence that is genuine, and not of this session -----------------------------------------------------


def test_evidence_recorded_in_one_session_is_refused_in_another(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            async with session(place, broker, identity) as (stream, nonce):
                recorded = evidence_for(place, stream, nonce, identity)
                await write_frame(stream, recorded)
                assert isinstance(await answer_of(stream), Granted)
            async with session(place, broker, identity) as (stream, other_nonce):
                assert other_nonce != nonce
                await write_frame(stream, recorded)
                await expect_refused(stream, place, "evidence-binding")

    in_loop(body)


@pytest.mark.parametrize("what", ["nonce", "exporter", "key", "request"])
def test_evidence_with_one_wrong_part_is_refused(place: Place, identity: TlsIdentity, what: str) -> None:
    async def body() -> None:
        async with running(place) as broker, session(place, broker, identity) as (stream, nonce):
            parts = {
                "nonce": nonce,
                "key": identity.spki_digest,
                "exporter": stream.export_keying_material(EXPORTER_LABEL, 32),
                "request": REQUEST,
            }
            parts[what] = parts[what][:-1] + bytes([parts[what][-1] ^ 1])
            report_data = broker_report_data(parts["nonce"], parts["key"], parts["exporter"], parts["request"])
            await write_frame(stream, encode(Evidence(request=REQUEST, quote=place.attester().quote(report_data))))
            await expect_refused(stream, place, "evidence-binding")

    in_loop(body)


def test_the_evidence_in_the_enclaves_certificate_does_not_do(place: Place, identity: TlsIdentity) -> None:
    from sealserve.ratls import extract_evidence

    async def body() -> None:
        quote = extract_evidence(identity.certificate).quote
        async with running(place) as broker, session(place, broker, identity) as (stream, _):
            await write_frame(stream, encode(Evidence(request=REQUEST, quote=quote)))
            await expect_refused(stream, place, "evidence-binding")

    in_loop(body)


@pytest.mark.parametrize("keys_of", ["the attacker", "the enclave itself"])
def test_evidence_relayed_through_a_man_in_the_middle_is_refused(
    place: Place, identity: TlsIdentity, keys_of: str
) -> None:
    """The attacker has a certificate that the enclave trusts, passes the nonce on and the evidence back.

    Even an attacker who had the enclave's own TLS key would fail: the evidence names the enclave's session with him.
    """
    mine = identity if keys_of == "the enclave itself" else new_identity(place, OTHER_ENCLAVE)
    answers: list[Granted | Refused] = []

    async def body() -> None:
        async with running(place) as broker:

            async def relay(enclave: TlsStream) -> None:
                async with session(place, broker, mine) as (upstream, nonce):
                    await write_frame(enclave, encode(Hello(nonce=nonce)))
                    await write_frame(upstream, await read_frame(enclave, MAX_EVIDENCE))
                    answers.append(await answer_of(upstream))
                    await write_frame(enclave, encode(answers[-1]))

            issued = place.authority.issue()
            context = server_context([issued.certificate], issued.key, request_client_certificate=True, alpn=[ALPN])
            attacker = await serve(Address("127.0.0.1", 0), context, relay)
            try:
                through = client_context(SignedByAuthority(place.authority.pem), identity=identity, alpn=[ALPN])
                stream = await connect("localhost", attacker.address.port, context=through)
                nonce = decode(await read_frame(stream, MAX_HELLO), Hello).nonce
                await write_frame(stream, evidence_for(place, stream, nonce, identity))
                assert isinstance(await answer_of(stream), Refused)
                await stream.close()
            finally:
                await attacker.close(grace=1)
        assert place.records[-1]["reason"] == "evidence-binding"
        assert [record["outcome"] for record in place.records] == ["refused"]

    in_loop(body)


def test_a_stolen_certificate_without_its_key_does_not_get_through_the_handshake(
    place: Place, identity: TlsIdentity
) -> None:
    """OpenSSL refuses to load a key that does not fit, so the thief lies about his key's public half (RFC 5915)."""
    own = ec.generate_private_key(ec.SECP256R1())
    point = identity.private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    scalar = own.private_numbers().private_value.to_bytes(32, "big")
    curve = b"\xa0\x0a\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
    body_ = b"\x02\x01\x01\x04\x20" + scalar + curve + b"\xa1\x44\x03\x42\x00" + point
    lie = crypto.load_privatekey(crypto.FILETYPE_ASN1, b"\x30" + bytes([len(body_)]) + body_)
    honest = client_context(SignedByAuthority(place.authority.pem), alpn=[ALPN])
    honest.settings.use_certificate(identity.certificate)
    with pytest.warns(DeprecationWarning, match="PKey"):
        honest.settings.use_privatekey(lie)

    async def attempt() -> None:
        async with running(place) as broker:
            # In TLS 1.3 the client is done before the server has looked at its certificate.
            stream = await connect("localhost", broker.address.port, context=honest)
            with pytest.raises(TlsConnectionError):
                await read_frame(stream, MAX_HELLO)
        assert place.records == []

    in_loop(attempt)


def test_evidence_bound_to_another_key_than_the_clients_is_refused(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        thief = new_identity(place, OTHER_ENCLAVE)
        async with running(place) as broker, session(place, broker, thief) as (stream, nonce):
            await write_frame(stream, evidence_for(place, stream, nonce, identity))
            await expect_refused(stream, place, "evidence-binding")
            assert place.records[-1]["key_sha256"] == thief.spki_digest.hex()

    in_loop(body)


def test_a_client_without_certificate_is_refused(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        context = client_context(SignedByAuthority(place.authority.pem), alpn=[ALPN])
        async with running(place) as broker:
            # Nothing is sent, so nothing is read or decoded: the refusal comes in the place of the nonce.
            stream = await connect("localhost", broker.address.port, context=context)
            await expect_refused(stream, place, "no-client-certificate")
            await stream.close()

    in_loop(body)


def test_tls_1_2_is_refused(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        context: ClientContext = client_context(
            SignedByAuthority(place.authority.pem), identity=identity, alpn=[ALPN], minimum_version="1.2"
        )
        context.settings.set_max_proto_version(SSL.TLS1_2_VERSION)
        async with running(place) as broker:
            stream = await connect("localhost", broker.address.port, context=context)
            await expect_refused(stream, place, "protocol", general="bad-request")
            await stream.close()

    in_loop(body)


# --- refused: nonsense ----------------------------------------------------------------------------------------------

BAD_MESSAGES = {
    "garbage": b"\xff" * 100,
    "not a map": cbor2.dumps([1, 2]),
    "no type": cbor2.dumps({"request": REQUEST, "quote": b"q"}),
    "another type": cbor2.dumps({"type": "hello", "request": REQUEST, "quote": b"q"}),
    "no quote": cbor2.dumps({"type": "evidence", "request": REQUEST}),
    "empty quote": cbor2.dumps({"type": "evidence", "request": REQUEST, "quote": b""}),
    "quote as text": cbor2.dumps({"type": "evidence", "request": REQUEST, "quote": "q"}),
    "huge quote": cbor2.dumps({"type": "evidence", "request": REQUEST, "quote": bytes(33_000)}),
    "request not encoded": cbor2.dumps({"type": "evidence", "request": {"deployment": "digits"}, "quote": b"q"}),
    "request garbage": cbor2.dumps({"type": "evidence", "request": b"\xff", "quote": b"q"}),
    "deployment as number": cbor2.dumps({"type": "evidence", "request": cbor2.dumps({"deployment": 1}), "quote": b"q"}),
    "deployment with a path": cbor2.dumps(
        {"type": "evidence", "request": cbor2.dumps({"deployment": "../x"}), "quote": b"q"}
    ),
    "too many keys": cbor2.dumps(
        {"type": "evidence", "request": cbor2.dumps({"deployment": "a", "keys": ["k"] * 65}), "quote": b"q"}
    ),
    "something after": cbor2.dumps({"type": "evidence", "request": REQUEST, "quote": b"q"}) + b"\x00",
}


@pytest.mark.parametrize("message", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_malformed_message_is_refused_and_recorded(place: Place, identity: TlsIdentity, message: bytes) -> None:
    async def body() -> None:
        async with running(place) as broker, session(place, broker, identity) as (stream, _):
            await write_frame(stream, message)
            await expect_refused(stream, place, "protocol", general="bad-request")
            assert await stream.read() == b""

    in_loop(body)


@pytest.mark.parametrize("quote", [b"\x00", bytes(432), b"\x03\x00" + bytes(3000)])
def test_a_quote_that_is_none_is_refused(place: Place, identity: TlsIdentity, quote: bytes) -> None:
    async def body() -> None:
        async with running(place) as broker, session(place, broker, identity) as (stream, _):
            await write_frame(stream, encode(Evidence(request=REQUEST, quote=quote)))
            answer = await answer_of(stream)
            assert isinstance(answer, Refused)
            assert answer.reason == "not-granted"

    in_loop(body)


@pytest.mark.parametrize("size", [0, MAX_EVIDENCE + 1, 0xFFFFFFFF])
def test_a_frame_of_an_impossible_size_is_refused_before_it_is_read(
    place: Place, identity: TlsIdentity, size: int
) -> None:
    async def body() -> None:
        async with running(place) as broker, session(place, broker, identity) as (stream, _):
            await stream.write(size.to_bytes(4, "big") + b"x")
            await expect_refused(stream, place, "protocol", general="bad-request")

    in_loop(body)


def test_a_truncated_frame_ends_the_connection_and_nothing_else(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            async with session(place, broker, identity) as (stream, nonce):
                message = evidence_for(place, stream, nonce, identity)
                await stream.write(len(message).to_bytes(4, "big") + message[:-1])
                await stream.close()
            await ask(place, broker, identity)
        assert [record["outcome"] for record in place.records] == ["granted"]

    in_loop(body)


def test_a_message_may_come_byte_by_byte(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker, session(place, broker, identity) as (stream, nonce):
            message = evidence_for(place, stream, nonce, identity)
            framed = len(message).to_bytes(4, "big") + message
            for index in range(40):
                await stream.write(framed[index : index + 1])
            await stream.write(framed[40:])
            assert isinstance(await answer_of(stream), Granted)

    in_loop(body)


def test_a_client_that_falls_silent_after_the_handshake_is_cut_off(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        place.document["limits"] = {"step_seconds": 0.1}
        async with running(place) as broker, session(place, broker, identity) as (stream, _):
            with contextlib.suppress(TlsConnectionError):
                assert await stream.read() == b""

    in_loop(body)


def test_two_hundred_idle_connections_stand_beside_a_good_one(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            address = broker.address
            idle = [await asyncio.open_connection(address.host, address.port) for _ in range(190)]
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(10):  # shaken hands, and silent then
                    await stack.enter_async_context(session(place, broker, identity))
                assert (await ask(place, broker, identity)).model.name == "digits"
            for _, writer in idle:
                writer.close()

    in_loop(body)


def test_twenty_replicas_that_start_together_all_get_their_grant(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            grants = await asyncio.gather(*(ask(place, broker, identity) for _ in range(20)))
        assert len({grant.decision for grant in grants}) == 20
        assert len(place.records) == 20

    in_loop(body)


# --- the audit log comes first --------------------------------------------------------------------------------------


def test_no_key_is_released_while_the_audit_log_cannot_be_written(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            await ask(place, broker, identity)
            with full_disk():
                async with session(place, broker, identity) as (stream, nonce):
                    await write_frame(stream, evidence_for(place, stream, nonce, identity))
                    answer = await answer_of(stream)
            assert isinstance(answer, Refused)
            assert answer.reason == "unavailable"
            await ask(place, broker, identity)  # there is space again
        assert [record["outcome"] for record in place.records] == ["granted", "granted"]
        assert answer.decision not in json.dumps(place.chain)

    in_loop(body)


# --- messages -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    for kind in (Hello, Evidence, Request):
        with contextlib.suppress(ProtocolError):
            decode(data, kind)
    with contextlib.suppress(ProtocolError):
        decode_answer(data)


fields = st.dictionaries(
    st.sampled_from(["type", "nonce", "request", "quote", "deployment", "keys", "decision", "reason", "model", "x"]),
    st.none()
    | st.sampled_from(["hello", "evidence", "granted", "refused", "not-granted"])
    | st.binary(min_size=32, max_size=32)
    | st.integers(-5, 5)
    | st.lists(st.text(max_size=3), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.binary(max_size=20), max_size=3),
)


@settings(max_examples=300, deadline=None)
@given(fields)
def test_any_map_is_a_message_or_a_protocol_error(value: dict[str, Any]) -> None:
    data = cbor2.dumps(value)
    for kind in (Hello, Evidence, Request):
        with contextlib.suppress(ProtocolError):
            assert decode(encode(decode(data, kind)), kind)
    with contextlib.suppress(ProtocolError):
        decode_answer(data)


def test_a_malformed_grant_does_not_show_its_key_in_the_error() -> None:
    message = {"type": "granted", "decision": "1", "keys": {"wrap": {"version": 0, "value": WRAP_KEY}}, "model": 1}
    with pytest.raises(ProtocolError) as caught:
        decode_answer(cbor2.dumps(message))
    shown = "".join(
        str(error) + repr(error) for error in (caught.value, caught.value.__cause__, caught.value.__context__)
    )
    assert WRAP_KEY.decode() not in shown
    assert str(list(WRAP_KEY)) not in shown


def test_fields_that_are_not_known_yet_are_ignored() -> None:
    assert decode(cbor2.dumps({"type": "hello", "nonce": bytes(32), "later": 1}), Hello).nonce == bytes(32)


def test_a_message_shows_no_key_in_its_representation() -> None:
    message = Granted(
        decision="1",
        keys={"wrap": {"version": 1, "value": WRAP_KEY}},  # type: ignore[dict-item]
        model={"name": "m", "version": 1, "digest": bytes(32), "mount": "/m", "key": "wrap"},  # type: ignore[arg-type]
    )
    assert WRAP_KEY.decode() not in repr(message)
