from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.addresses import Address, is_dns_name, parse_address
from sealserve.errors import InputError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8500", Address("127.0.0.1", 8500)),
        ("[::1]:1", Address("::1", 1)),
        ("[0:0::1]:1", Address("::1", 1)),
        ("Broker.Example:65535", Address("broker.example", 65535)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "8500", ":8500", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "300.1.1.1:1", "1.2.3:4"],
)
def test_a_part_that_is_missing_or_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    ["::1:8500", "[::1]", "[1.2.3.4]:5", "a b:1", "a\n:1", "-x:1", "x..y:1", "host:1\n", "host:\u0661", "[::1%lo]:1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_address(text)


def test_port_zero_only_where_it_means_any() -> None:
    assert parse_address("localhost:0", allow_any_port=True) == Address("localhost", 0)


def test_a_wildcard_is_reached_over_loopback() -> None:
    assert str(Address("0.0.0.0", 1).reachable_here()) == "127.0.0.1:1"  # noqa: S104
    assert str(Address("::", 1).reachable_here()) == "[::1]:1"
    assert Address("10.0.0.1", 1).reachable_here() == Address("10.0.0.1", 1)


@given(st.text(max_size=40))
def test_any_text_gives_an_address_or_an_input_error(text: str) -> None:
    try:
        address = parse_address(text)
    except InputError:
        return
    assert parse_address(str(address)) == address


def test_dns_names_have_limits() -> None:
    assert is_dns_name("a" * 63 + ".b")
    assert not is_dns_name("a" * 64)
    assert not is_dns_name(".".join(["abc"] * 64))
    assert not is_dns_name("under_score")
    assert not is_dns_name("")
