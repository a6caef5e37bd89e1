"""Paths are normalised and embedded as Gramine does it."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.sealing import normalise_path
from sealserve.sealing.errors import EmbeddedPathError
from sealserve.sealing.paths import embeddable, join


@pytest.mark.parametrize(
    ("given_path", "normal"),
    [
        ("pf/a", "pf/a"),
        ("./pf/../pf//a", "pf/a"),
        ("/a//b///c/", "/a/b/c"),
        ("//a", "/a"),
        ("/../a", "/a"),
        ("/a/../../b", "/b"),
        ("../a", "../a"),
        ("../../a/..", "../.."),
        ("a/../../b", "../b"),
        ("a/..", ""),
        ("./", ""),
        ("/", "/"),
        ("/.", "/"),
        ("..", ".."),
        ("...", "..."),
        (".a/..b", ".a/..b"),
        ("a/b/../c/./d", "a/c/d"),
    ],
)
def test_normalising(given_path: str, normal: str) -> None:
    assert normalise_path(given_path) == normal


_parts = st.lists(st.sampled_from(["", ".", "..", "a", "bb", "..."]), max_size=12)


@given(st.booleans(), _parts)
def test_normalising_agrees_with_posix_except_for_what_is_empty(absolute: bool, parts: list[str]) -> None:
    path = ("/" if absolute else "") + "/".join(parts)
    expected = posixpath.normpath(path)
    if expected.startswith("//"):
        expected = expected[1:]
    assert normalise_path(path) == ("" if expected == "." else expected)


@given(st.text(alphabet="ab./", max_size=30))
def test_normalising_twice_changes_nothing(path: str) -> None:
    assert normalise_path(normalise_path(path)) == normalise_path(path)


def test_the_longest_path_is_embedded_and_one_byte_more_is_refused() -> None:
    longest = "/" + "é" * 385
    assert len(embeddable(longest)) == 771
    with pytest.raises(EmbeddedPathError, match="772 bytes"):
        embeddable(longest + "x")


@pytest.mark.parametrize("path", ["", ".", "a/..", "a\0b", "\udcff"])
def test_a_path_that_cannot_be_embedded_is_refused(path: str) -> None:
    with pytest.raises(EmbeddedPathError):
        embeddable(path)


@pytest.mark.parametrize("mount", ["/models/x", "/models/x/", "//models//x/."])
def test_a_file_of_a_model_lies_under_the_mount(mount: str) -> None:
    assert join(mount, "variables/a") == "/models/x/variables/a"
    assert join("/", "a") == "/a"
