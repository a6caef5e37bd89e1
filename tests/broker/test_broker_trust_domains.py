"""Protocol version 2 with evidence of trust domains: the broker's rules are the ones for enclaves."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import pytest
from broker_parties import GRANT, WRAP_KEY, Place, ask, in_loop, running

from sealserve.broker.client import GrantRefusedError
from sealserve.broker.store import StoredPolicy
from sealserve.evidence import Attester, TsmAttester
from sealserve.ratls import create_identity
from trust_domains import DEBUG, SEPT_VE_DISABLE, Domain, Kernel, TdxPlatform, make_guest, measurement


@pytest.fixture(scope="module")
def tdx() -> TdxPlatform:
    return TdxPlatform()


@pytest.fixture
def guests(place: Place, tdx: TdxPlatform) -> Place:
    """A place whose grant is for the trust domain ``Domain()``."""
    path = tdx.write_policy(place.directory, Domain().reference())
    with place.administration() as administration:
        administration.put_policy(StoredPolicy.from_file("guests", path))
    place.put(policy="guests")
    return place


def attester(tdx: TdxPlatform, directory: Path, domain: Domain | None = None) -> TsmAttester:
    return TsmAttester(make_guest(directory / "guest", Kernel(tdx.machine, domain))[0])


class Replayed:
    """A host that answers every question with one old quote, and does not look at what it is over."""

    tee: Literal["tdx"] = "tdx"

    def __init__(self, quote: bytes) -> None:
        self._quote = quote

    def quote(self, report_data: bytes) -> bytes:
        del report_data
        return self._quote


def outcome(place: Place, attester: Attester) -> dict[str, object]:
    """The broker's record of its decision on this attester."""

    async def body() -> None:
        async with running(place) as broker:
            grant = await ask(place, broker, create_identity(attester), attester=attester)
            assert grant.keys["wrap"].value.reveal() == WRAP_KEY
            grant.wipe()

    with contextlib.suppress(GrantRefusedError):
        in_loop(body)
    record: dict[str, object] = place.records[-1]
    return record


def test_the_trust_domain_that_the_policy_names_gets_the_key(guests: Place, tdx: TdxPlatform, tmp_path: Path) -> None:
    record = outcome(guests, attester(tdx, tmp_path))
    assert (record["outcome"], record["simulated"]) == ("granted", False)
    evidence = record["evidence"]
    assert isinstance(evidence, dict)
    assert evidence["trust_domain"]["mrtd"] == Domain().mrtd.hex()


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        (Domain(attributes=SEPT_VE_DISABLE | DEBUG), "debug-enclave"),
        (Domain().with_rtmr(1, measurement("another")), "measurement-refused"),
    ],
    ids=["debug", "RTMR1"],
)
def test_another_trust_domain_gets_nothing(
    guests: Place, tdx: TdxPlatform, tmp_path: Path, domain: Domain, reason: str
) -> None:
    record = outcome(guests, attester(tdx, tmp_path, domain))
    assert (record["outcome"], record["reason"]) == ("refused", reason)


def test_a_replayed_quote_gets_nothing(guests: Place, tdx: TdxPlatform) -> None:
    record = outcome(guests, Replayed(tdx.quote(Domain(), bytes(64))))
    assert (record["outcome"], record["reason"]) == ("refused", "evidence-binding")


def test_an_enclave_gets_nothing_for_a_trust_domain(guests: Place) -> None:
    record = outcome(guests, guests.attester())
    assert (record["outcome"], record["reason"]) == ("refused", "untrusted-root")


def test_a_trust_domain_gets_nothing_for_an_enclave(place: Place, tdx: TdxPlatform, tmp_path: Path) -> None:
    assert GRANT["policy"] == "policy"
    record = outcome(place, attester(tdx, tmp_path))
    assert (record["outcome"], record["reason"]) == ("refused", "untrusted-root")
