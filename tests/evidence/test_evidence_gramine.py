"""The attester inside Gramine, against a directory that looks like its pseudo-files."""

from __future__ import annotations

from pathlib import Path

import pytest
from evidence_corpus import ENCLAVE, REPORT_DATA

from sealserve.evidence import GramineAttester, SimulatedPlatform
from sealserve.evidence.errors import AttestationError, AttestationUnavailableError


@pytest.fixture
def device(tmp_path: Path, platform: SimulatedPlatform) -> Path:
    (tmp_path / "attestation_type").write_text("dcap\n")
    (tmp_path / "user_report_data").write_bytes(bytes(64))
    (tmp_path / "quote").write_bytes(platform.quote(ENCLAVE, REPORT_DATA))
    return tmp_path


def test_report_data_is_written_and_the_quote_is_read(device: Path) -> None:
    attester = GramineAttester(device)
    assert attester.tee == "sgx"
    assert attester.quote(REPORT_DATA) == (device / "quote").read_bytes()
    assert (device / "user_report_data").read_bytes() == REPORT_DATA


def test_an_older_gramine_without_the_type_is_accepted(device: Path) -> None:
    (device / "attestation_type").unlink()
    assert GramineAttester(device).quote(REPORT_DATA)


def test_outside_an_enclave_attestation_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(AttestationUnavailableError, match="does not run in an SGX enclave") as caught:
        GramineAttester(tmp_path / "absent").quote(REPORT_DATA)
    assert "tee: simulated" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["none", "epid", ""])
def test_another_attestation_type_is_unavailable(device: Path, kind: str) -> None:
    (device / "attestation_type").write_text(kind)
    with pytest.raises(AttestationUnavailableError, match="dcap"):
        GramineAttester(device).quote(REPORT_DATA)


def test_an_empty_quote_is_an_error(device: Path) -> None:
    (device / "quote").write_bytes(b"")
    with pytest.raises(AttestationError, match="0 bytes"):
        GramineAttester(device).quote(REPORT_DATA)


def test_a_quote_over_other_report_data_is_an_error(device: Path) -> None:
    with pytest.raises(AttestationError, match="not over the report data"):
        GramineAttester(device).quote(bytes(63) + b"\1")


def test_a_device_that_fails_is_an_error(device: Path) -> None:
    (device / "quote").unlink()
    (device / "quote").mkdir()
    with pytest.raises(AttestationError, match="cannot get a quote"):
        GramineAttester(device).quote(REPORT_DATA)


def test_report_data_of_another_size_is_an_error(device: Path) -> None:
    with pytest.raises(AttestationError, match="64 bytes"):
        GramineAttester(device).quote(bytes(32))
