"""docs/broker-protocol.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from broker_parties import Place

from sealserve.broker.messages import (
    ALPN,
    MAX_ANSWER,
    MAX_EVIDENCE,
    MAX_HELLO,
    Evidence,
    Granted,
    Hello,
    Key,
    Model,
    Previous,
    Refused,
    Request,
    decode,
    decode_answer,
    encode,
)
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store import GrantDocument
from sealserve.ratls import broker_report_data

DOCUMENT = (Path(__file__).parents[2] / "docs" / "broker-protocol.md").read_text()
WRITTEN = "".join(DOCUMENT.split())


def test_every_message_is_encoded_as_the_vectors_show() -> None:
    request = encode(Request(deployment="digits", keys=["wrap"]))
    model = Model(name="digits", version=7, digest=b"\xab" * 32, mount="/models/digits", key="wrap")
    messages = [
        Hello(nonce=bytes(range(32))),
        Evidence(request=request, quote=b"\x03\x00"),
        Refused(decision="0123456789abcdef", reason="not-granted"),
        Granted(
            decision="0123456789abcdef",
            keys={"wrap": Key(version=3, value=bytes(16))},
            model=model,
            arguments={"threads": "2"},
        ),
        Granted(
            decision="0123456789abcdef",
            keys={"wrap": Key(version=4, value=bytes(16))},
            model=model,
            revision=9,
            refresh=300,
            previous=Previous(
                model=model.model_copy(update={"version": 6, "digest": b"\xcd" * 32}),
                key=Key(version=3, value=bytes([1]) * 16),
            ),
        ),
    ]
    for message in messages:
        assert encode(message).hex() in WRITTEN
    assert request.hex() in WRITTEN
    assert broker_report_data(bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96)), request).hex() in WRITTEN


def test_the_vectors_are_read_back() -> None:
    blocks = re.findall(r"^    (\w+) +([0-9a-f]{20,}(?:\n {10,}[0-9a-f]{20,})*)$", DOCUMENT, re.MULTILINE)
    vectors = {name: bytes.fromhex("".join(text.split())) for name, text in blocks}
    assert decode(vectors["hello"], Hello).nonce == vectors["nonce"]
    assert decode(decode(vectors["evidence"], Evidence).request, Request).keys == ["wrap"]
    assert isinstance(decode_answer(vectors["refused"]), Refused)
    assert isinstance(decode_answer(vectors["granted"]), Granted)
    switched = decode_answer(vectors["switched"])
    assert isinstance(switched, Granted)
    assert (switched.revision, switched.refresh) == (9, 300)
    assert switched.previous
    assert switched.previous.key.version == 3


@pytest.mark.parametrize("fact", [ALPN, f"{MAX_HELLO:,}", f"{MAX_EVIDENCE:,}", f"{MAX_ANSWER:,}"])
def test_names_and_limits_are_the_codes(fact: str) -> None:
    assert fact in DOCUMENT


def examples() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_example_configuration_is_valid(place: Place) -> None:
    path = place.directory / "example.yaml"
    path.write_text(examples()[0])
    settings = BrokerSettings.load(path)
    assert settings.limits == type(settings.limits)()
    assert settings.store == str(place.directory / "broker.db")


def test_the_example_grant_is_valid(place: Place) -> None:
    path = place.directory / "grant.yaml"
    path.write_text(examples()[1])
    document = GrantDocument.load(path)
    assert document.refresh_seconds == GrantDocument.model_fields["refresh_seconds"].default
    with place.administration() as administration:
        administration.put_grant(document)
