"""``collateral`` in a policy file: a path, or a service; every mistake names its line."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from collateral_service import CollateralServer, TestAuthority, fields_of, serving
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA

from sealserve.configuration import load_yaml, parse_yaml
from sealserve.errors import ConfigurationError, InputError
from sealserve.evidence import (
    AppraisalPolicy,
    FileCollateral,
    PolicyDocument,
    SimulatedPlatform,
    collateral_file,
    service_at,
)
from sealserve.evidence.errors import CollateralMalformedError, CollateralServiceError
from sealserve.evidence.service.addresses import INTEL_ROOT_CRL

HEAD = f"tee: sgx\nenclaves: [{{mrenclave: {'ab' * 32}}}]\n"


def load(directory: Path, collateral: str) -> PolicyDocument:
    path = directory / "policy.yaml"
    path.write_text(f"{HEAD}collateral: {collateral}\n")
    return load_yaml(path, PolicyDocument)


@pytest.mark.parametrize(
    ("text", "base", "root_crl"),
    [
        ("intel", "https://api.trustedservices.intel.com", INTEL_ROOT_CRL),
        ("azure", "https://global.acccache.azure.net", INTEL_ROOT_CRL),
        (
            "alibaba:cn-hangzhou",
            "https://sgx-dcap-server.cn-hangzhou.aliyuncs.com",
            "https://sgx-dcap-server.cn-hangzhou.aliyuncs.com/sgx/certification/v4/rootcacrl",
        ),
        ("https://pccs:8081", "https://pccs:8081", "https://pccs:8081/sgx/certification/v4/rootcacrl"),
        ("https://pccs/sgx/certification/v4/", "https://pccs", "https://pccs/sgx/certification/v4/rootcacrl"),
        ("https://a/b/", "https://a/b", "https://a/b/sgx/certification/v4/rootcacrl"),
    ],
)
def test_a_service_has_a_name_or_an_address(text: str, base: str, root_crl: str) -> None:
    service = service_at(text)
    assert (service.base, service.root_crl) == (base, root_crl)
    assert service.url("tdx", "tcb") == f"{base}/tdx/certification/v4/tcb"


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    document = load(tmp_path, "collateral.json")
    assert document.collateral.file == tmp_path / "collateral.json"
    again = parse_yaml(document.to_yaml(), PolicyDocument, path=Path("/elsewhere/policy.yaml"))
    assert again.collateral.file == tmp_path / "collateral.json"
    assert yaml.safe_load(document.to_yaml())["collateral"] == str(tmp_path / "collateral.json")


def test_a_service_with_every_setting_survives_saving(tmp_path: Path) -> None:
    text = (
        "{service: https://pccs.example.com:8081, root_crl: https://crl.example.com/root.crl, ca: ca.pem, "
        "proxy: http://proxy.example.com:3128, cache: cache, timeout_seconds: 20, refresh_hours: 12}"
    )
    document = load(tmp_path, text)
    assert document.collateral.ca == tmp_path / "ca.pem"
    assert document.collateral.cache == tmp_path / "cache"
    again = parse_yaml(document.to_yaml(), PolicyDocument, path=Path("/elsewhere/policy.yaml"))
    assert again == document
    assert "insecure" not in document.to_yaml()


@pytest.mark.parametrize(
    ("collateral", "why"),
    [
        ("", ":3: collateral: is empty"),
        ("[]", ":3: collateral: must be the path of a file, or a section with service"),
        ("{}", ":3: collateral: must be the path of a file, or a section with service"),
        ("{service: intel, file: x}", ":3: collateral: must be the path of a file, or a section with service"),
        ("{file: x, cache: y, ca: z}", ":3: collateral: has ca, cache, which are for a service"),
        ("{service: }", ":3: collateral.service: is empty"),
        ("{service: intel, cache: }", ":3: collateral.cache: is empty"),
        ("{service: itnel}", ":3: collateral.service: must be intel, azure, alibaba:REGION, or a URL"),
        ("{service: 'http://pccs'}", ":3: collateral.service: must begin with https://"),
        ("{service: 'ftp://pccs'}", ":3: collateral.service: must be a URL that begins with https://"),
        ("{service: 'https://'}", ":3: collateral.service: must be a URL"),
        ("{service: 'https://pccs:99999'}", ":3: collateral.service: is no URL"),
        ("{service: 'https://u:p@pccs'}", ":3: collateral.service: must not have a user name"),
        ("{service: 'https://pccs?x=1'}", ":3: collateral.service: must not have a user name, a password, a query"),
        ("{service: 'https://pccs/sgx/certification/v3/'}", "this ends in /sgx/certification/v3"),
        ("{service: 'alibaba:'}", ":3: collateral.service: must be intel"),
        ("{service: 'alibaba:cn-x.evil.example'}", ":3: collateral.service: must be intel"),
        ("{service: intel, root_crl: 'http://crl'}", ":3: collateral.root_crl: must begin with https://"),
        ("{service: intel, proxy: 'socks5://p'}", ":3: collateral.proxy: must be a URL such as"),
        ("{service: intel, proxy: proxy}", ":3: collateral.proxy: must be a URL such as"),
        ("{service: intel, timeout_seconds: 0}", ":3: collateral.timeout_seconds: must be more than 0"),
        ("{service: intel, refresh_hours: 10000}", ":3: collateral.refresh_hours: must be at most 720"),
        ("{service: intel, verify_tls: false}", ":3: collateral.verify_tls: is not a known setting"),
        ("\n  service: intel\n  cach: x", ":5: collateral.cach: is not a known setting; did you mean cache?"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, collateral: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, collateral)
    assert why in caught.value.message, caught.value.message


def test_a_missing_authority_file_is_told_when_the_policy_is_loaded(tmp_path: Path) -> None:
    load(tmp_path, "{service: 'https://pccs', ca: absent.pem}")
    with pytest.raises(ConfigurationError, match=r"absent\.pem holds no certificates"):
        AppraisalPolicy.load(tmp_path / "policy.yaml")
    (tmp_path / "absent.pem").write_text("junk")
    with pytest.raises(ConfigurationError, match=r"absent\.pem holds no certificates"):
        AppraisalPolicy.load(tmp_path / "policy.yaml")


def test_http_needs_a_permission_that_is_called_insecure_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path, "{service: 'http://pccs', insecure_allow_http: true}")
    with caplog.at_level(logging.WARNING, "sealserve"):
        AppraisalPolicy.load(tmp_path / "policy.yaml")
    assert caplog.messages == ["insecure-policy-loaded"]


@pytest.fixture
def directory(tmp_path: Path, platform: SimulatedPlatform) -> Path:
    (tmp_path / "root.pem").write_text(platform.root_pem)
    return tmp_path


@pytest.fixture
def server(directory: Path, platform: SimulatedPlatform) -> Iterator[CollateralServer]:
    authority = TestAuthority(directory, "ca")
    with serving(CollateralServer(fields_of(platform, now=NOW)), authority.context("127.0.0.1")) as service:
        yield service


def policy(directory: Path, server: CollateralServer, **settings: Any) -> AppraisalPolicy:
    collateral = {"service": server.url, "ca": "ca.pem", "proxy": "none", "cache": "cache", **settings}
    document = {
        "tee": "simulated",
        "trust_root": "root.pem",
        "collateral": collateral,
        "enclaves": [{"mrenclave": ENCLAVE.mrenclave.hex()}],
        "insecure_accept_simulated_platform": True,
    }
    path = directory / "policy.yaml"
    path.write_text(json.dumps(document))  # which is YAML, too
    return AppraisalPolicy.load(path, clock=NOW.timestamp)


def test_a_policy_with_a_service_appraises(directory: Path, server: CollateralServer, quote: bytes) -> None:
    judge = policy(directory, server)
    assert judge.collateral_status() == ()
    assert judge.would_block(quote)
    assert not judge.would_block(b"junk")
    assert judge.appraise(quote, report_data=REPORT_DATA).collateral_expires
    assert not judge.would_block(quote)
    assert judge.refresh_collateral() == 0
    (status,) = judge.collateral_status()
    assert (status.service, status.fetches) == (f"127.0.0.1:{server.port}", 1)
    assert list((directory / "cache").glob("sgx-*.json"))


def test_a_service_that_is_down_is_told_as_such(directory: Path, server: CollateralServer, quote: bytes) -> None:
    server.temper = lambda _, __: (500, {}, b"")
    appraisal = policy(directory, server, timeout_seconds=0.3).appraise_with_steps(quote, report_data=REPORT_DATA)
    assert isinstance(appraisal.error, CollateralServiceError)
    assert appraisal.error.exit_code == 5
    outcomes = {step.name: step.outcome for step in appraisal.steps}
    assert (outcomes["root"], outcomes["collateral"], outcomes["signature"]) == ("ok", "failed", "skipped")


def test_a_strangers_quote_is_refused_before_the_service_is_asked(
    directory: Path, server: CollateralServer, other_platform: SimulatedPlatform
) -> None:
    judge = policy(directory, server)
    foreign = other_platform.quote(ENCLAVE, REPORT_DATA)
    appraisal = judge.appraise_with_steps(foreign, report_data=REPORT_DATA)
    assert appraisal.as_dict()["refusal"]["reason"] == "untrusted-root"
    assert not judge.would_block(foreign)
    assert server.requests == []


def test_a_policy_with_a_file_blocks_only_when_it_is_to_be_looked_at(
    directory: Path, platform: SimulatedPlatform, quote: bytes
) -> None:
    (directory / "collateral.json").write_text(platform.collateral_json(now=NOW))
    (directory / "policy.yaml").write_text(
        f"tee: simulated\ntrust_root: root.pem\ncollateral: collateral.json\n"
        f"enclaves: [{{mrenclave: {ENCLAVE.mrenclave.hex()}}}]\ninsecure_accept_simulated_platform: true\n"
    )
    judge = AppraisalPolicy.load(directory / "policy.yaml", clock=NOW.timestamp)
    assert judge.would_block(quote)
    assert judge.appraise(quote, report_data=REPORT_DATA)
    assert not judge.would_block(quote)
    assert judge.refresh_collateral() == 0
    assert judge.collateral_status() == ()


@pytest.fixture
def file(directory: Path, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch) -> FileCollateral:
    """Read once, for somebody who may not wait, and due to be looked at again."""
    monkeypatch.setattr(collateral_file, "_LOOK_SECONDS", 0.001)
    path = directory / "collateral.json"
    path.write_text(platform.collateral_json(now=NOW))
    source = FileCollateral(path)
    assert source.would_block()
    source.collateral(b"")
    time.sleep(0.002)
    return source


def test_a_changed_file_counts_for_the_next_quote(file: FileCollateral, platform: SimulatedPlatform) -> None:
    before = file.collateral(b"")
    file.path.write_text(platform.collateral_json(now=NOW + timedelta(hours=1)))
    time.sleep(0.002)
    assert file.would_block()
    assert file.collateral(b"").expires > before.expires


def test_a_file_that_holds_no_collateral_any_more_is_not_replaced_by_what_it_held(file: FileCollateral) -> None:
    file.path.write_text("{}")
    for _ in range(2):
        assert file.would_block()
        with pytest.raises(CollateralMalformedError):
            file.collateral(b"")


def test_a_file_system_that_hangs_does_not_keep_waiting_who_has_something_valid(
    file: FileCollateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = file.collateral(b"")
    hangs = threading.Event()
    monkeypatch.setattr(collateral_file, "_LONGEST_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(collateral_file, "read_file", lambda *_, **__: hangs.wait(30) and b"{}")
    file.path.write_text("changed")
    time.sleep(0.002)
    try:
        assert file.would_block()
        assert file.collateral(b"") is known
        assert not file.would_block()  # nobody waits for it any more
        assert file.collateral(b"") is known
    finally:
        hangs.set()


def test_a_file_system_that_hangs_from_the_beginning_is_told(
    directory: Path, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "collateral.json").write_text("anything")
    hangs = threading.Event()
    monkeypatch.setattr(collateral_file, "_LONGEST_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(collateral_file, "read_file", lambda *_, **__: hangs.wait(30) and b"{}")
    source = FileCollateral(directory / "collateral.json")
    try:
        for _ in range(2):
            assert source.would_block()
            with pytest.raises(InputError, match="does not answer"):
                source.collateral(b"")
    finally:
        hangs.set()
