"""The attester in a TDX guest, against a tree that behaves as the kernel's configfs reports do."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from evidence_corpus import REPORT_DATA

from sealserve.evidence import AppraisalPolicy, SimulatedPlatform, TsmAttester, parse_quote
from sealserve.evidence.errors import (
    AttestationError,
    AttestationUnavailableError,
    DebugEnclaveError,
    EvidenceBindingError,
    MeasurementRefusedError,
    PlatformRefusedError,
    TcbRefusedError,
    UnsafeAttributesError,
    UntrustedRootError,
)
from sealserve.evidence.tsm import REPORTS
from trust_domains import (
    DEBUG,
    OLD_TEE_TCB_SVN,
    SEPT_VE_DISABLE,
    Domain,
    GuestPath,
    Kernel,
    TdxPlatform,
    make_guest,
    measurement,
)


@pytest.fixture(scope="module")
def tdx() -> TdxPlatform:
    return TdxPlatform()


@pytest.fixture
def kernel(tdx: TdxPlatform) -> Kernel:
    return Kernel(tdx.machine)


@pytest.fixture
def reports(tmp_path: Path, kernel: Kernel) -> GuestPath:
    return make_guest(tmp_path / "guest", kernel)[0]


class Pauses(list[float]):
    """Nobody waits in these tests."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def attester(root: Path, pauses: Pauses | None = None) -> TsmAttester:
    return TsmAttester(root, pause=Pauses() if pauses is None else pauses)


def left(reports: Path) -> list[Path]:
    return list(Path(reports).iterdir())


def test_the_quote_is_of_the_trust_domain_and_over_the_report_data(reports: GuestPath, kernel: Kernel) -> None:
    found = attester(reports)
    assert found.tee == "tdx"
    quote = parse_quote(found.quote(REPORT_DATA))
    assert (quote.tee, quote.header.version, quote.report_data) == ("tdx", 4, REPORT_DATA)
    assert kernel.quotes[0][568:632] == REPORT_DATA
    assert left(reports) == []


def test_every_quote_is_fresh(reports: GuestPath) -> None:
    found = attester(reports)
    assert found.quote(REPORT_DATA) != found.quote(REPORT_DATA)


def test_threads_get_the_quotes_that_they_asked_for(reports: GuestPath) -> None:
    found = attester(reports)
    asked = [bytes([number]) * 64 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        quotes = list(pool.map(found.quote, asked))
    assert [quote[568:632] for quote in quotes] == asked
    assert left(reports) == []


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN, errno.EINTR])
def test_a_busy_driver_is_asked_again(reports: GuestPath, kernel: Kernel, number: int) -> None:
    kernel.failures = [number] * 3
    pauses = Pauses()
    assert attester(reports, pauses).quote(REPORT_DATA)
    assert pauses == [0.05, 0.1, 0.2]
    assert left(reports) == []


def test_a_driver_that_stays_busy_is_an_error(reports: GuestPath, kernel: Kernel) -> None:
    kernel.failures = [errno.EBUSY] * 100
    pauses = Pauses()
    with pytest.raises(AttestationError, match="cannot get a quote"):
        attester(reports, pauses).quote(REPORT_DATA)
    assert len(pauses) == 8
    assert sum(pauses) < 15
    assert left(reports) == []


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EIO])
def test_a_host_without_quotes_is_told_so_at_once(reports: GuestPath, kernel: Kernel, number: int) -> None:
    kernel.failures = [number]
    pauses = Pauses()
    with pytest.raises(AttestationError, match="the host does not produce a quote") as caught:
        attester(reports, pauses).quote(REPORT_DATA)
    assert "qgsd" in (caught.value.hint or "")
    assert pauses == []
    assert left(reports) == []


def interfering(kernel: Kernel, times: int) -> Callable[[Path], None]:
    """Somebody else writes to the report just before it is read."""
    read = kernel.read
    remaining = [times]

    def other(report: Path) -> None:
        if remaining[0]:
            remaining[0] -= 1
            kernel.write(report, bytes(64))
        read(report)

    return other


def test_a_report_that_somebody_else_wrote_to_is_made_again(
    reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "read", interfering(kernel, 2))
    assert attester(reports).quote(REPORT_DATA)[568:632] == REPORT_DATA
    assert len(kernel.quotes) == 3


def test_somebody_who_keeps_writing_ends_in_an_error(
    reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "read", interfering(kernel, 1000))
    with pytest.raises(AttestationError, match="other programs keep writing"):
        attester(reports).quote(REPORT_DATA)
    assert left(reports) == []


def test_a_write_that_the_kernel_lost_is_made_again(
    reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = kernel.write
    lost = [True]

    def lossy(report: Path, data: bytes) -> None:
        if not lost.pop() if lost else True:
            write(report, data)

    monkeypatch.setattr(kernel, "write", lossy)
    assert attester(reports).quote(REPORT_DATA)[568:632] == REPORT_DATA


@pytest.mark.parametrize("provider", ["sev_guest", "arm_cca_guest", ""])
def test_another_kind_of_machine_is_named(reports: GuestPath, kernel: Kernel, provider: str) -> None:
    kernel.provider = provider
    with pytest.raises(AttestationUnavailableError, match=f'come from "{provider}"'):
        attester(reports).quote(REPORT_DATA)
    assert left(reports) == []


def test_a_machine_without_reports_is_no_guest(tmp_path: Path) -> None:
    with pytest.raises(AttestationUnavailableError, match="this is no TDX guest") as caught:
        attester(tmp_path / "absent").quote(REPORT_DATA)
    assert "mount -t configfs" in (caught.value.hint or "")
    assert "modprobe tdx_guest" in (caught.value.hint or "")


@pytest.mark.skipif(REPORTS.exists(), reason="this machine has configfs reports")
def test_the_kernels_own_place_is_looked_at() -> None:
    with pytest.raises(AttestationUnavailableError, match="there is no /sys/kernel/config/tsm/report"):
        TsmAttester().quote(REPORT_DATA)


@pytest.mark.parametrize(
    ("number", "why", "hint"),
    [
        (errno.ENXIO, "no driver", "modprobe"),
        (errno.EACCES, "may not make reports", "root"),
        (errno.EPERM, "may not make reports", "root"),
        (errno.EROFS, "may not make reports", "ProtectKernelTunables"),
    ],
)
def test_a_report_that_cannot_be_made_says_why(
    reports: GuestPath, monkeypatch: pytest.MonkeyPatch, number: int, why: str, hint: str
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(type(reports), "mkdir", refuse)
    with pytest.raises(AttestationUnavailableError, match=why) as caught:
        attester(reports).quote(REPORT_DATA)
    assert hint in (caught.value.hint or "")


def test_a_driver_that_goes_away_meanwhile_is_an_error(
    reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "make", lambda report: None)
    with pytest.raises(AttestationUnavailableError, match="no driver"):
        attester(reports).quote(REPORT_DATA)
    assert left(reports) == []


@pytest.mark.parametrize(
    ("quote", "why"),
    [
        (b"", "0 bytes, which are no quote"),
        (bytes(200), "no quote"),
        (b"\4\0\2\0\x81\0\0\0" + bytes(8 << 20), "no quote"),
        (b"\5\0\2\0\x81\0\0\0" + bytes(1000), "version 5 for TEE type 0x81"),
        (b"\3\0\2\0\0\0\0\0" + bytes(1000), "version 3 for TEE type 0x0"),
        (b"\4\0\2\0\x81\0\0\0" + bytes(1000), "not over the report data"),
    ],
    ids=["empty", "short", "endless", "version 5", "SGX", "other report data"],
)
def test_what_is_not_the_quote_asked_for_is_refused(
    reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, quote: bytes, why: str
) -> None:
    monkeypatch.setattr(kernel, "quote", lambda _: quote)
    with pytest.raises(AttestationError, match=why):
        attester(reports).quote(REPORT_DATA)


def test_a_replayed_quote_is_refused(reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    old = kernel.quote(bytes(64))
    monkeypatch.setattr(kernel, "quote", lambda _: old)
    with pytest.raises(AttestationError, match="not over the report data"):
        attester(reports).quote(REPORT_DATA)


def test_a_generation_that_is_no_number_is_an_error(
    reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = kernel.make

    def odd(report: Path) -> None:
        make(report)
        (report / "generation").write_text("many\n")

    monkeypatch.setattr(kernel, "make", odd)
    with pytest.raises(AttestationError, match="no number"):
        attester(reports).quote(REPORT_DATA)
    assert left(reports) == []


def test_report_data_of_another_size_is_an_error(reports: GuestPath, kernel: Kernel) -> None:
    with pytest.raises(AttestationError, match="64 bytes"):
        attester(reports).quote(bytes(32))
    assert kernel.written == {}


def test_a_report_that_cannot_be_removed_costs_no_quote(
    reports: GuestPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(type(reports), "rmdir", refuse)
    with caplog.at_level("WARNING", "sealserve"):
        assert attester(reports).quote(REPORT_DATA)
    assert caplog.messages == ["report-not-removed"]


def test_one_report_is_made_at_a_time(reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    read, inside, most = kernel.read, threading.Semaphore(1), []

    def alone(report: Path) -> None:
        most.append(inside.acquire(blocking=False))
        read(report)
        inside.release()

    monkeypatch.setattr(kernel, "read", alone)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attester(reports).quote, [REPORT_DATA] * 8))
    assert all(most)


# --- and what a policy makes of such quotes ---------------------------------------------------------------------------


def test_a_policy_accepts_what_the_attester_gathers(reports: GuestPath, tdx: TdxPlatform, tmp_path: Path) -> None:
    policy = AppraisalPolicy.load(tdx.write_policy(tmp_path, Domain().reference()))
    evidence = policy.appraise(attester(reports).quote(REPORT_DATA), report_data=REPORT_DATA)
    assert (evidence.tee, evidence.simulated, evidence.own_root) == ("tdx", False, True)
    assert evidence.short_identity == f"MRTD {Domain().mrtd.hex()[:16]}…"


@pytest.mark.parametrize(
    ("domain", "error"),
    [
        (Domain(attributes=SEPT_VE_DISABLE | DEBUG), DebugEnclaveError),
        (Domain(attributes=0), UnsafeAttributesError),
        *((Domain(attributes=SEPT_VE_DISABLE | 1 << bit), UnsafeAttributesError) for bit in (5, 17, 29, 40)),
        (Domain(mrtd=measurement("another firmware")), MeasurementRefusedError),
        *((Domain().with_rtmr(index, measurement("another")), MeasurementRefusedError) for index in range(4)),
    ],
    ids=[
        "debug",
        "no SEPT_VE_DISABLE",
        "profiled",
        "SERVTD_EXT",
        "migratable",
        "reserved",
        "MRTD",
        "RTMR0",
        "RTMR1",
        "RTMR2",
        "RTMR3",
    ],
)
def test_another_trust_domain_is_refused(
    tdx: TdxPlatform, tmp_path: Path, domain: Domain, error: type[Exception]
) -> None:
    policy = AppraisalPolicy.load(tdx.write_policy(tmp_path, Domain().reference()))
    with pytest.raises(error):
        policy.appraise(tdx.quote(domain, REPORT_DATA), report_data=REPORT_DATA)


def test_an_outdated_platform_is_refused(tdx: TdxPlatform, tmp_path: Path) -> None:
    (tmp_path / "tdx-collateral.json").write_text(tdx.collateral_json(tdx_status="OutOfDate"))
    policy = AppraisalPolicy.load(tdx.write_policy(tmp_path, Domain().reference()))
    with pytest.raises(TcbRefusedError, match="OutOfDate"):
        policy.appraise(tdx.quote(Domain(), REPORT_DATA), report_data=REPORT_DATA)


def test_an_outdated_tdx_module_is_refused(tdx: TdxPlatform, tmp_path: Path) -> None:
    policy = AppraisalPolicy.load(tdx.write_policy(tmp_path, Domain().reference()))
    with pytest.raises(TcbRefusedError, match="OutOfDate"):
        policy.appraise(tdx.quote(Domain(tee_tcb_svn=OLD_TEE_TCB_SVN), REPORT_DATA), report_data=REPORT_DATA)


def test_evidence_of_another_question_is_refused(reports: GuestPath, tdx: TdxPlatform, tmp_path: Path) -> None:
    policy = AppraisalPolicy.load(tdx.write_policy(tmp_path, Domain().reference()))
    with pytest.raises(EvidenceBindingError):
        policy.appraise(attester(reports).quote(REPORT_DATA), report_data=bytes(64))


def test_another_authoritys_trust_domain_is_refused(tdx: TdxPlatform, tmp_path: Path) -> None:
    policy = AppraisalPolicy.load(tdx.write_policy(tmp_path, Domain().reference()))
    with pytest.raises(UntrustedRootError):
        policy.appraise(TdxPlatform().quote(Domain(), REPORT_DATA), report_data=REPORT_DATA)


def test_a_policy_for_enclaves_refuses_a_trust_domain(tdx: TdxPlatform, tmp_path: Path) -> None:
    path = tdx.write_policy(tmp_path, tee="sgx", trust_domains=[], enclaves=[{"mrenclave": "00" * 32}])
    with pytest.raises(PlatformRefusedError, match="of a tdx TEE, and the policy is for sgx") as caught:
        AppraisalPolicy.load(path).appraise(tdx.quote(Domain(), REPORT_DATA), report_data=REPORT_DATA)
    assert any("MRENCLAVE is missing" in reason for reason in caught.value.reasons)


def test_a_policy_for_trust_domains_refuses_a_simulated_enclave(
    tdx: TdxPlatform, platform: SimulatedPlatform, quote: bytes, tmp_path: Path
) -> None:
    policy = AppraisalPolicy.load(tdx.write_policy(tmp_path, Domain().reference()))
    with pytest.raises(UntrustedRootError):
        policy.appraise(quote, report_data=REPORT_DATA)


def test_intels_own_quote_passes_through_the_attester_and_its_policy(
    shared_vectors: Path, reports: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    quote = (shared_vectors / "quotes" / "tdx_quote").read_bytes()
    monkeypatch.setattr(kernel, "quote", lambda _: quote)
    assert attester(reports).quote(parse_quote(quote).report_data) == quote
