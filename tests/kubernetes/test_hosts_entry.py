"""Our entries in CoreDNS' Corefile come and go, and everything else in it stays as it is."""

from __future__ import annotations

import pytest
from corefiles import AKS, K3S, KUBEADM, corefiles
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.kubernetes.live.corefile import CorefileError, read_corefile
from sealserve.kubernetes.live.hosts_entry import HostsEntry, owners, with_entry, without_entry

PHOTOS = HostsEntry("serving/photos", ("192.0.2.10",), ("broker.example",))
CATS = HostsEntry("serving/cats", ("192.0.2.11", "2001:db8::1"), ("keys.example", "attestation.service.com"))


def _removed(text: str, entry: HostsEntry = PHOTOS, *, part: bool = False) -> str:
    edit = without_entry(text, entry.owner, part=part)
    assert edit is not None
    return edit.text


@given(corefiles())
@settings(max_examples=50, deadline=None)
def test_what_is_put_in_is_taken_out_again_byte_for_byte(text: str) -> None:
    once = with_entry(text, PHOTOS).text
    assert once != text
    assert with_entry(once, PHOTOS).text == once
    both = with_entry(once, CATS).text
    assert set(owners(both)) == {PHOTOS.owner, CATS.owner}
    assert _removed(_removed(both), CATS) == text
    assert _removed(_removed(both, CATS)) == text


@given(corefiles(), st.sampled_from(["# somebody\n", "    log\n", "\n"]), st.data())
@settings(max_examples=50, deadline=None)
def test_what_others_changed_meanwhile_stays(text: str, added: str, data: st.DataObject) -> None:
    once = with_entry(text, PHOTOS).text
    mark = once.index("# begin sealserve hosts" if "# begin sealserve hosts" in once else "# begin sealserve serving")
    begin = once.rindex("\n", 0, mark) + 1
    length = len(once) - len(text)
    breaks = [0, *(n + 1 for n, character in enumerate(text) if character == "\n")]
    at = data.draw(st.sampled_from(breaks))
    try:
        changed = text[:at] + added + text[at:]
        read_corefile(changed)
        with_entry(changed, PHOTOS)
    except CorefileError:
        return  # in the middle of something
    if at > begin:
        after = once[: at + length] + added + once[at + length :]
    elif at < begin:
        after = once[:at] + added + once[at:]
    else:
        after = once[:begin] + added + once[begin:]
    assert _removed(after) == changed


def test_the_entry_is_read_as_a_hosts_file_that_falls_through() -> None:
    assert "\n    hosts {\n        # begin sealserve serving/photos" in with_entry(KUBEADM, PHOTOS).text
    block = read_corefile(with_entry(KUBEADM, PHOTOS).text).block_of("broker.example")
    (hosts,) = block.named("hosts")
    assert [[word.text for word in line] for line in hosts.lines()] == [
        ["192.0.2.10", "broker.example"],
        ["fallthrough"],
    ]


def test_a_hosts_that_is_there_is_used_and_keeps_its_settings() -> None:
    text = with_entry(with_entry(K3S, PHOTOS).text, CATS).text
    (hosts,) = read_corefile(text).block_of("keys.example").named("hosts")
    assert hosts.arguments == ["/etc/coredns/NodeHosts"]
    assert [line[0].text for line in hosts.lines()] == [
        "192.0.2.11",
        "2001:db8::1",
        "192.0.2.10",
        "ttl",
        "reload",
        "fallthrough",
    ]
    assert _removed(_removed(text), CATS) == K3S


def test_what_is_imported_into_a_block_is_changed_in_the_same_way() -> None:
    assert _removed(with_entry("", PHOTOS, part=True).text, part=True) == ""
    assert "hosts {" in with_entry("log\n", PHOTOS, part=True).text


def test_an_entry_that_others_added_to_ours_stays_when_ours_goes() -> None:
    text = with_entry(KUBEADM, PHOTOS).text.replace(
        "        fallthrough\n", "        10.9.9.9 theirs.example\n        fallthrough\n"
    )
    after = _removed(text)
    assert "sealserve" not in after
    (hosts,) = read_corefile(after).block_of("theirs.example").named("hosts")
    assert [line[0].text for line in hosts.lines()] == ["10.9.9.9", "fallthrough"]


def test_what_was_changed_by_hand_is_told() -> None:
    text = with_entry(KUBEADM, PHOTOS).text.replace("192.0.2.10 broker", "192.0.2.99 broker")
    edit = without_entry(text, PHOTOS.owner)
    assert edit is not None
    assert (edit.text, edit.by_hand) == (KUBEADM, ("192.0.2.99 broker.example",))
    assert with_entry(text, PHOTOS).by_hand == ("192.0.2.99 broker.example",)
    assert with_entry(text, PHOTOS).text == with_entry(KUBEADM, PHOTOS).text


def test_the_block_of_the_longest_zone_gets_the_entry() -> None:
    text = KUBEADM + "example:53 {\n    forward . 10.0.0.1\n}\n.:5353 {\n    whoami\n}\n"
    after = read_corefile(with_entry(text, PHOTOS).text)
    assert [len(block.named("hosts")) for block in after.blocks] == [0, 1, 0]
    assert [
        len(block.named("hosts"))
        for block in read_corefile(with_entry(text, HostsEntry("a/b", ("::1",), ("x.test",))).text).blocks
    ] == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (".:53 {\n  errors\n", "nothing closes"),
        (".:53\nerrors\n", "without braces"),
        (".:53 {\n  errors }\n}\n", "closes nothing"),
        ('.:53 {\n  log "x\n}\n', "quotation mark"),
        ("other.test {\n}\n", "no server block"),
        (".:53 {\n  errors\n  hosts\n}\n", "has no braces"),
        (".:53 {\n  hosts {\n  }\n  hosts {\n  }\n}\n", "a second time"),
        (".:53 {\n  hosts /x other.test {\n  }\n}\n", "not for broker.example"),
        (".:53 { errors\n}\n", "goes on after"),
        (".:53 {\n  hosts { ttl 3\n  }\n}\n", "goes on after"),
        (".:53 {\n  hosts {\n 10.0.0.1 broker.example\n }\n}\n", "says already that broker.example is 10.0.0.1"),
        (".:53 {\n  # begin sealserve serving/photos 00000000\n}\n", "do not belong together"),
        (".:53 {\n  # end sealserve serving/photos\n}\n", "do not belong together"),
        (".:53 {\n  import\n}\n", "without its one argument"),
        ("import\n.:53 {\n}\n", "imports nothing"),
        ("", "no server block"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_changed_safely_is_refused(text: str, says: str) -> None:
    with pytest.raises(CorefileError, match=says):
        with_entry(text, PHOTOS)


def test_an_import_at_the_end_is_no_block() -> None:
    assert len(read_corefile(AKS).blocks) == 1
