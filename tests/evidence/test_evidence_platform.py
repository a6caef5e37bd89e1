"""The simulated platform in its directory, and the measurement of a simulated enclave."""

from __future__ import annotations

import json
import logging
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA

import sealserve
from sealserve.errors import InputError, KeyFileError
from sealserve.evidence import (
    SIMULATED_SIGNER,
    Collateral,
    FileCollateral,
    PlatformProfile,
    SimulatedAttester,
    SimulatedEnclave,
    TrustRoot,
    Verifier,
    create_simulated_platform,
    ensure_simulated_platform,
    measure_simulated_enclave,
    refresh_collateral,
)
from sealserve.evidence.errors import AttestationError, CollateralMalformedError
from sealserve.evidence.simulated import load_simulated_platform


def judge(directory: Path, at: datetime = NOW) -> Verifier:
    root = TrustRoot.from_pem(directory / "root.pem")
    return Verifier(root, FileCollateral(directory / "collateral.json"), clock=at.timestamp)


# --- the directory ------------------------------------------------------------------------------------------------


def test_a_platform_in_a_directory_gives_quotes_that_verify(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "platform"
    create_simulated_platform(directory, now=NOW)
    quote = SimulatedAttester(directory, ENCLAVE).quote(REPORT_DATA)
    evidence = judge(directory).verify(quote)
    assert evidence.simulated
    assert evidence.mrenclave == ENCLAVE.mrenclave


def test_private_keys_are_private_and_the_rest_is_public(tmp_path: Path) -> None:
    create_simulated_platform(tmp_path / "platform")
    modes = {
        path.relative_to(tmp_path / "platform").as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "platform").rglob("*")
        if path.is_file()
    }
    private = {name for name, mode in modes.items() if mode == 0o600}
    assert private == {
        *("authority/root.key", "authority/platform-ca.key", "authority/tcb-signing.key"),
        *("machine/pck.key", "machine/attestation.key"),
    }
    assert {mode for name, mode in modes.items() if name not in private} == {0o644}
    assert {"root.pem", "collateral.json", "README.txt"} < set(modes)


def test_everything_says_that_it_is_simulated(tmp_path: Path) -> None:
    platform = create_simulated_platform(tmp_path / "platform")
    for certificate in x509.load_pem_x509_certificates(platform.machine.chain_pem):
        assert "SIMULATED" in certificate.subject.rfc4514_string()
        assert "NO PROTECTION" in certificate.subject.rfc4514_string()
    assert "NO PROTECTION" in (tmp_path / "platform" / "README.txt").read_text()
    assert TrustRoot.from_pem(tmp_path / "platform" / "root.pem").simulated


def test_ensuring_twice_keeps_the_platform(tmp_path: Path) -> None:
    first = ensure_simulated_platform(tmp_path / "platform")
    before = {path: path.read_bytes() for path in (tmp_path / "platform").rglob("*") if path.is_file()}
    second = ensure_simulated_platform(tmp_path / "platform")
    assert second.root_pem == first.root_pem
    assert {path: path.read_bytes() for path in before} == before


def test_ensuring_renews_collateral_that_expires_soon(tmp_path: Path) -> None:
    directory = tmp_path / "platform"
    create_simulated_platform(directory, now=NOW)
    quote = SimulatedAttester(directory, ENCLAVE).quote(REPORT_DATA)
    later = NOW + timedelta(days=45)
    ensure_simulated_platform(directory, now=later)
    assert judge(directory, later).verify(quote).collateral_expires > later + timedelta(days=29)


@pytest.mark.parametrize("damage", ["", "{}", "junk"])
def test_ensuring_renews_collateral_that_is_damaged(tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "platform"
    create_simulated_platform(directory)
    (directory / "collateral.json").write_text(damage)
    ensure_simulated_platform(directory)
    assert Collateral.from_json((directory / "collateral.json").read_bytes())


def test_several_processes_may_ensure_at_once(tmp_path: Path) -> None:
    found: list[str] = []

    def ensure() -> None:
        found.append(ensure_simulated_platform(tmp_path / "platform").root_pem)

    threads = [threading.Thread(target=ensure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["platform"]


def test_refreshed_collateral_is_picked_up(tmp_path: Path) -> None:
    directory = tmp_path / "platform"
    create_simulated_platform(directory, now=NOW)
    verifier = judge(directory)
    quote = SimulatedAttester(directory, ENCLAVE).quote(REPORT_DATA)
    first = verifier.verify(quote).collateral_expires
    refresh_collateral(directory, now=NOW + timedelta(minutes=1), validity=timedelta(days=3))
    assert verifier.verify(quote).collateral_expires == first - timedelta(days=27) + timedelta(minutes=1)


def test_a_profile_survives_the_disk(tmp_path: Path) -> None:
    profile = PlatformProfile(
        tcb_status="OutOfDate", advisory_ids=("SIMULATED-SA-00003",), collateral_fmspc=b"abcdef", revoked_pck=True
    )
    create_simulated_platform(tmp_path / "platform", profile=profile)
    assert load_simulated_platform(tmp_path / "platform").profile == profile


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        ensure_simulated_platform(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert not list(tmp_path.parent.glob(".*.partial"))


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sealserve.evidence.simulated.directory.write_atomically", full)
    with pytest.raises(Exception, match="No space left"):
        create_simulated_platform(tmp_path / "platform")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["platform.json", "root.pem", "authority/root.key", "machine/pck-chain.pem"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}"])
def test_a_damaged_platform_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    directory = tmp_path / "platform"
    create_simulated_platform(directory)
    if name == "platform.json" and content == b"{}":
        content = b'{"surprise": 1}'
    (directory / name).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        ensure_simulated_platform(directory)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_simulated_platform(tmp_path / "platform")
    (tmp_path / "platform" / "machine" / "pck.key").chmod(0o644)
    with pytest.raises(KeyFileError, match="read by others"):
        SimulatedAttester(tmp_path / "platform", ENCLAVE)


def test_an_attester_needs_the_machine_only(tmp_path: Path) -> None:
    create_simulated_platform(tmp_path / "platform", now=NOW)
    for key in (tmp_path / "platform" / "authority").glob("*.key"):
        key.unlink()
    quote = SimulatedAttester(tmp_path / "platform", ENCLAVE).quote(REPORT_DATA)
    assert judge(tmp_path / "platform").verify(quote)


def test_an_attester_without_a_platform_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        SimulatedAttester(tmp_path / "nowhere", ENCLAVE)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_has_64_bytes(tmp_path: Path, size: int) -> None:
    create_simulated_platform(tmp_path / "platform")
    attester = SimulatedAttester(tmp_path / "platform", ENCLAVE)
    assert attester.tee == "simulated"
    with pytest.raises(AttestationError, match="64 bytes"):
        attester.quote(bytes(size))


def test_making_a_platform_is_logged_as_what_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        create_simulated_platform(tmp_path / "platform")
    (record,) = caplog.records
    assert record.getMessage() == "simulated-platform-created"
    assert record.__dict__["fields"]["protection"] == "none"


def test_collateral_is_issued_like_intels(tmp_path: Path) -> None:
    create_simulated_platform(tmp_path / "platform")
    fields = json.loads((tmp_path / "platform" / "collateral.json").read_bytes())
    tcb_info, identity = json.loads(fields["tcb_info"]), json.loads(fields["qe_identity"])
    assert (tcb_info["id"], tcb_info["version"]) == ("SGX", 3)
    assert (identity["id"], identity["version"]) == ("QE", 2)
    assert [level["tcbStatus"] for level in tcb_info["tcbLevels"]] == ["UpToDate", "OutOfDate", "OutOfDate"]
    assert [bool(level.get("advisoryIDs")) for level in tcb_info["tcbLevels"]] == [False, True, True]
    issued, until = (datetime.fromisoformat(tcb_info[key]) for key in ("issueDate", "nextUpdate"))
    assert until - issued == timedelta(days=30)
    assert issued <= datetime.now(UTC)


def test_collateral_in_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        FileCollateral(tmp_path / "absent").collateral(b"")
    (tmp_path / "damaged").write_text("{}")
    with pytest.raises(CollateralMalformedError, match="damaged"):
        FileCollateral(tmp_path / "damaged").collateral(b"")


# --- the measurement ----------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the place of sealserve's."""
    root = tmp_path / "package"
    (root / "room").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "room" / "code.py").write_text("x = 1\n")
    (root / "room" / "messages.binpb").write_bytes(b"\1\2")
    monkeypatch.setattr(sealserve, "__path__", [str(root)])
    return root


def test_the_measurement_is_stable() -> None:
    assert measure_simulated_enclave() == measure_simulated_enclave({})
    assert measure_simulated_enclave().mrsigner == SIMULATED_SIGNER
    assert len(measure_simulated_enclave().mrenclave) == 32


def test_the_order_of_settings_does_not_matter_but_their_values_do() -> None:
    first = measure_simulated_enclave({"a": "1", "b": "2"})
    assert first == measure_simulated_enclave({"b": "2", "a": "1"})
    others = [{"a": "1"}, {"a": "1", "b": "3"}, {"a": "1b", "": "2"}, {"a1": "", "b": "2"}, {"a": "1", "c": "2"}]
    assert len({measure_simulated_enclave(other).mrenclave for other in others} | {first.mrenclave}) == 6


def test_code_is_measured(package: Path) -> None:
    before = measure_simulated_enclave()
    (package / "room" / "code.py").write_text("x = 2\n")
    assert measure_simulated_enclave() != before


def test_descriptors_names_and_new_files_are_measured(package: Path) -> None:
    seen = {measure_simulated_enclave().mrenclave}
    (package / "room" / "messages.binpb").write_bytes(b"\1\3")
    seen.add(measure_simulated_enclave().mrenclave)
    (package / "room" / "code.py").rename(package / "room" / "other.py")
    seen.add(measure_simulated_enclave().mrenclave)
    (package / "room" / "empty.py").write_text("")
    seen.add(measure_simulated_enclave().mrenclave)
    assert len(seen) == 4


def test_moving_bytes_between_files_is_noticed(package: Path) -> None:
    (package / "a.py").write_text("one")
    (package / "b.py").write_text("two")
    before = measure_simulated_enclave()
    (package / "a.py").write_text("onet")
    (package / "b.py").write_text("wo")
    assert measure_simulated_enclave() != before


def test_caches_and_other_files_are_not_measured(package: Path) -> None:
    before = measure_simulated_enclave()
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "code.py").write_text("x")
    (package / "room" / "notes.txt").write_text("x")
    assert measure_simulated_enclave() == before


def test_an_enclave_with_impossible_values_is_refused() -> None:
    for wrong in (
        (bytes(31), bytes(32)),
        (bytes(32), b""),
        (bytes(32), bytes(32), 70_000),
        (bytes(32), bytes(32), 0, -1),
    ):
        with pytest.raises(ValueError, match=r"32 bytes|16-bit"):
            SimulatedEnclave(*wrong)
