"""What is found on machines of many kinds, each a stand-in tree; and that nothing about a machine ends the looking."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stand_in_machine import USER, StandIn

from sealserve.cli.doctor import doctor
from sealserve.deploy.clouds import load_profile
from sealserve.deploy.doctor import Finding, Report, examination, examine, machine
from sealserve.errors import ConfigurationError


@pytest.fixture
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    made = StandIn(tmp_path_factory.mktemp("m"))
    yield made
    made.close()


def look(stand_in: StandIn, *, user: int = USER, groups: tuple[int, ...] | None = None, **settings: Any) -> Report:
    found = stand_in.machine(user=user) if groups is None else stand_in.machine(user=user, groups=groups)
    return examine(found, offline=True, **settings)


def finding(report: Report, check: str) -> Finding:
    found = [item for item in report.findings if item.check == check]
    assert len(found) == 1, [item.check for item in report.findings]
    return found[0]


def problems(report: Report) -> set[str]:
    return {item.check for item in report.findings if item.level == "problem"}


# --- SGX ----------------------------------------------------------------------------------------------------------


def test_a_machine_that_has_all_is_ready(stand_in: StandIn) -> None:
    report = look(stand_in)
    assert report.tee == "sgx"
    assert report.ready
    assert {item.level for item in report.findings} == {"ok", "note"}
    assert "SGX" in report.works[0]
    assert finding(report, "epc").text == "the EPC, the memory of enclaves, has 64.0 GiB"
    assert finding(report, "gramine").text == "Gramine 1.9 is installed"
    assert "27.3.1" in finding(report, "container-engine").text


def test_each_problem_says_how_to_mend_it(stand_in: StandIn) -> None:
    shutil.rmtree(stand_in.root / "dev")
    shutil.rmtree(stand_in.root / "var")
    stand_in.remove("etc/sgx_default_qcnl.conf")
    report = look(stand_in)
    assert problems(report) == {"sgx-enclave-device", "sgx-provision-device", "aesm", "qcnl"}
    assert all(item.mend for item in report.findings if item.level == "problem")
    assert not report.ready
    assert not any("SGX" in line and "attested replicas" in line for line in report.works)


def test_sgx_without_launch_control_is_a_problem(stand_in: StandIn) -> None:
    stand_in.cpu("fpu fsgsbase sgx")
    assert problems(look(stand_in)) == {"sgx-launch-control"}


def test_a_kernel_without_fsgsbase_is_a_problem_for_gramine(stand_in: StandIn) -> None:
    stand_in.cpu("sgx sgx_lc")
    assert problems(look(stand_in)) == {"fsgsbase"}


@pytest.mark.parametrize(
    ("flags", "vendor", "kernel", "words"),
    [
        ("fpu hypervisor", "GenuineIntel", "6.8.0", "virtual machine"),
        ("fpu", "GenuineIntel", "6.8.0", "BIOS"),
        ("fpu", "GenuineIntel", "5.4.119-19-0009.1", "older than its support"),
        ("fpu", "AuthenticAMD", "6.8.0", "AuthenticAMD"),
    ],
)
def test_a_machine_without_sgx_says_why(stand_in: StandIn, flags: str, vendor: str, kernel: str, words: str) -> None:
    stand_in.cpu(flags, vendor=vendor)
    stand_in.write("proc/sys/kernel/osrelease", kernel)
    asked = look(stand_in, tee="sgx")
    assert words in finding(asked, "sgx").text
    assert finding(asked, "sgx").level == "problem"
    assert not asked.ready


def test_a_machine_without_sgx_is_told_what_still_works(stand_in: StandIn) -> None:
    stand_in.cpu("fpu")
    report = look(stand_in)
    assert report.tee == "simulated"
    assert report.ready
    assert "simulated" in report.works[0]
    assert finding(report, "sgx").level == "note"


def test_a_cloud_that_has_sgx_makes_its_absence_a_problem(stand_in: StandIn) -> None:
    stand_in.cpu("fpu hypervisor")
    assert not look(stand_in, profile=load_profile("azure-dcsv3")).ready


def test_an_old_kernel_has_no_driver(stand_in: StandIn) -> None:
    stand_in.write("proc/sys/kernel/osrelease", "5.4.0-150-generic")
    stand_in.remove("dev/sgx_enclave")
    assert "5.11" in str(finding(look(stand_in), "sgx-enclave-device").mend)


@pytest.mark.parametrize("name", ["dev/isgx", "dev/sgx/enclave"])
def test_a_legacy_driver_is_named(stand_in: StandIn, name: str) -> None:
    stand_in.remove("dev/sgx_enclave")
    stand_in.remove("dev/sgx_provision")
    stand_in.write(name, "")
    assert f"/{name}" in finding(look(stand_in), "sgx-legacy-driver").text


# --- permissions and containers -----------------------------------------------------------------------------------


def test_a_user_outside_the_group_is_told_which(stand_in: StandIn) -> None:
    report = look(stand_in, groups=(USER,))
    found = finding(report, "sgx-provision-device")
    assert found.level == "problem"
    assert "0660" in found.text
    assert found.mend == 'sudo usermod -aG sgx_prv "$USER", and log in again'
    assert finding(report, "sgx-enclave-device").level == "ok"


def test_a_device_that_only_root_may_use_wants_the_packages_rules(stand_in: StandIn) -> None:
    stand_in.device("dev/sgx_provision", 0o600, 0)
    assert "udevadm" in str(finding(look(stand_in), "sgx-provision-device").mend)
    assert look(stand_in, user=0, groups=(0,)).ready


def test_a_group_without_a_name_is_shown_by_its_number(stand_in: StandIn) -> None:
    stand_in.device("dev/sgx_enclave", 0o660, 4711)
    assert "4711" in finding(look(stand_in), "sgx-enclave-device").text


def test_a_container_without_devices_is_told_how_to_get_them(stand_in: StandIn) -> None:
    for name in ("dev/sgx_enclave", "dev/sgx_provision", "var/run/aesmd/aesm.socket"):
        stand_in.remove(name)
    stand_in.write(".dockerenv", "")
    report = look(stand_in)
    assert problems(report) == {"sgx-enclave-device", "sgx-provision-device", "aesm"}
    assert "--device /dev/sgx_enclave" in str(finding(report, "sgx-enclave-device").mend)
    assert "--volume" in str(finding(report, "aesm").mend)


def test_a_directory_in_the_place_of_a_device_is_known_for_what_it_is(stand_in: StandIn) -> None:
    stand_in.remove("dev/sgx_enclave")
    (stand_in.root / "dev/sgx_enclave").mkdir(mode=0o777)
    assert "is a directory" in finding(look(stand_in), "sgx-enclave-device").text


def test_a_device_is_opened_and_not_only_looked_at(stand_in: StandIn) -> None:
    stand_in.remove("dev/sgx_enclave")
    # A character device that everybody may use, and that can be opened.
    (stand_in.root / "dev/sgx_enclave").symlink_to("/dev/null")
    assert look(stand_in).ready
    stand_in.remove("dev/sgx_enclave")
    # One that everybody may use, and that can be opened by nobody without a terminal.
    (stand_in.root / "dev/sgx_enclave").symlink_to("/dev/tty")
    if os.isatty(0):
        pytest.skip("the test has a terminal")
    assert "cannot be opened" in finding(look(stand_in), "sgx-enclave-device").text


# --- EPC ----------------------------------------------------------------------------------------------------------


def test_the_epc_is_read_from_cpuid_where_the_kernel_does_not_say_it(stand_in: StandIn) -> None:
    shutil.rmtree(stand_in.root / "sys")
    assert finding(look(stand_in), "epc").level == "note"
    device = stand_in.write("dev/cpu/0/cpuid", "")
    # Two sections: 2 GiB at 0x70000000, and 64 GiB at 0x10_00000000 (Intel SDM, table 3-8).
    sections = [(0x70000001, 0, 0x80000001, 0), (0x1, 0x10, 0x1, 0x10)]
    with device.open("r+b") as file:
        for number, registers in enumerate(sections, start=2):
            file.seek(number << 32 | 0x12)
            file.write(b"".join(value.to_bytes(4, "little") for value in registers))
    assert finding(look(stand_in), "epc").text.endswith("has 66.0 GiB")


def test_a_machine_without_epc_cannot_run_enclaves(stand_in: StandIn) -> None:
    for node in (0, 1):
        stand_in.write(f"sys/devices/system/node/node{node}/x86/sgx_total_bytes", "0\n")
    assert problems(look(stand_in)) == {"epc"}


# --- quotes -------------------------------------------------------------------------------------------------------


def test_a_socket_that_nobody_listens_at_is_a_problem(stand_in: StandIn) -> None:
    stand_in.close()
    stand_in.write("opt/intel/sgx-aesm-service/x", "")
    found = finding(look(stand_in), "aesm")
    assert found.level == "problem"
    assert "systemctl" in str(found.mend)


def test_a_configuration_that_does_not_verify_tls_is_a_problem(stand_in: StandIn) -> None:
    stand_in.write("etc/sgx_default_qcnl.conf", "PCCS_URL=https://pccs/sgx/certification/v4/\nUSE_SECURE_CERT=FALSE\n")
    assert problems(look(stand_in)) == {"qcnl-tls"}


def test_a_configuration_for_another_cloud_is_noticed(stand_in: StandIn) -> None:
    assert finding(look(stand_in, profile=load_profile("alibaba-g7t:cn-hangzhou")), "qcnl").level == "ok"
    assert finding(look(stand_in, profile=load_profile("alibaba-g7t")), "qcnl").level == "ok"
    found = finding(look(stand_in, profile=load_profile("alibaba-g7t:cn-beijing")), "qcnl")
    assert found.level == "warning"
    assert "cn-beijing" in found.text
    assert "sealserve cloud setup alibaba-g7t:cn-beijing" in str(found.mend)


def test_a_broken_configuration_is_a_problem(stand_in: StandIn) -> None:
    stand_in.write("etc/sgx_default_qcnl.conf", '{"pccs_url": ')
    assert problems(look(stand_in)) == {"qcnl"}


def test_a_machine_without_quote_provider_is_told_the_setup(stand_in: StandIn) -> None:
    stand_in.remove("usr/lib/x86_64-linux-gnu/libdcap_quoteprov.so.1")
    assert "cloud setup bare-metal" in str(finding(look(stand_in), "quote-provider").mend)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(stand_in: StandIn) -> None:
    for name in ("proc/cpuinfo", "proc/meminfo", "etc/sgx_default_qcnl.conf"):
        stand_in.remove(name)
        os.mkfifo(stand_in.root / name)
    started = time.monotonic()
    assert problems(look(stand_in, tee="sgx")) >= {"sgx", "qcnl"}
    assert time.monotonic() - started < 5


def test_a_program_that_floods_or_leaves_others_behind_is_ended(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_RUN_SECONDS", 1.0)
    stand_in.program("gramine-sgx", "exec yes")
    stand_in.program("docker", f"sleep 60 & echo $! >{stand_in.root}/child; sleep 60")
    report = look(stand_in, tee="sgx")
    assert finding(report, "gramine").level == "warning"
    child = int((stand_in.root / "child").read_text())
    with contextlib.suppress(OSError):  # it is gone, or nobody has waited for it yet
        assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


# --- TDX ----------------------------------------------------------------------------------------------------------


def tdx_guest(stand_in: StandIn, provider: str = "tdx_guest") -> None:
    stand_in.cpu("fpu hypervisor tdx_guest")
    shutil.rmtree(stand_in.root / "dev")
    stand_in.write("dev/tdx_guest", "")
    stand_in.write("proc/sys/kernel/osrelease", "6.16.3-generic")
    stand_in.write("sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384", "\0" * 48).chmod(0o666)
    stand_in.write("sys/kernel/config/tsm/report/somebody/provider", f"{provider}\n")


def test_a_tdx_guest_is_ready(stand_in: StandIn) -> None:
    tdx_guest(stand_in)
    report = look(stand_in)
    assert report.tee == "tdx"
    assert report.ready
    assert "TDX" in report.works[0]
    assert [path.name for path in (stand_in.root / "sys/kernel/config/tsm/report").iterdir()] == ["somebody"]


def test_a_tdx_guest_with_an_old_kernel_has_no_reports(stand_in: StandIn) -> None:
    tdx_guest(stand_in)
    stand_in.write("proc/sys/kernel/osrelease", "5.10.134-16.al8.x86_64")
    stand_in.remove("sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")
    assert problems(look(stand_in)) == {"tdx-reports", "tdx-register"}


def test_a_guest_in_which_no_replica_could_extend_its_register_is_not_ready(stand_in: StandIn) -> None:
    tdx_guest(stand_in)
    register = stand_in.root / "sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384"
    register.chmod(0o644)
    assert problems(look(stand_in)) == {"tdx-register"}
    assert look(stand_in, user=0).ready
    register.unlink()
    assert "CONFIG_TSM_MEASUREMENTS" in str(finding(look(stand_in), "tdx-register").mend)
    stand_in.write("proc/sys/kernel/osrelease", "6.8.0-31-generic")
    assert "6.16" in str(finding(look(stand_in), "tdx-register").mend)


def test_reports_of_somebody_else_are_none(stand_in: StandIn) -> None:
    tdx_guest(stand_in, "sev_guest")
    assert "sev_guest" in finding(look(stand_in), "tdx-reports").text


def test_a_tdx_guest_without_configfs_is_told_to_mount_it(stand_in: StandIn) -> None:
    tdx_guest(stand_in)
    shutil.rmtree(stand_in.root / "sys/kernel")
    assert "mount -t configfs" in str(finding(look(stand_in), "tdx-reports").mend)


def test_no_tdx_guest_is_a_problem_only_if_asked_for(stand_in: StandIn) -> None:
    assert look(stand_in).ready
    assert "tdx-guest" in problems(look(stand_in, tee="tdx"))


def test_a_paravisor_in_front_of_tdx_is_known(stand_in: StandIn) -> None:
    tdx_guest(stand_in)
    report = look(stand_in, profile=load_profile("azure-dcsv3"))
    assert "tdx-paravisor" in problems(report)


# --- programs, clock ----------------------------------------------------------------------------------------------


def test_an_engine_whose_server_is_down_gives_way_to_another(stand_in: StandIn) -> None:
    stand_in.program("docker", "exit 1")
    found = finding(look(stand_in), "container-engine")
    if shutil.which("podman", path="/usr/bin:/bin") is None:
        assert found.mend is not None
        assert found.mend.startswith("sudo systemctl enable --now docker")
    stand_in.program("podman", "echo 5.2.0")
    assert finding(look(stand_in), "container-engine").text == "podman works (5.2.0)"


def test_an_old_gramine_is_out_of_date(stand_in: StandIn) -> None:
    stand_in.program("gramine-sgx", "echo 'Gramine 1.4 (x)'")
    found = finding(look(stand_in), "gramine")
    assert found.level == "warning"
    assert "1.4" in found.text


def test_a_clock_that_nobody_keeps_is_a_warning(stand_in: StandIn) -> None:
    stand_in.program("timedatectl", "echo no")
    assert finding(look(stand_in), "clock-synchronization").level == "warning"


# --- whatever the machine -----------------------------------------------------------------------------------------


def test_a_program_that_hangs_is_not_waited_for(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_RUN_SECONDS", 0.2)
    stand_in.program("gramine-sgx", "sleep 30")
    before = time.monotonic()
    assert "does not say its version" in finding(look(stand_in), "gramine").text
    assert time.monotonic() - before < 5


def test_a_probe_that_hangs_or_breaks_is_a_finding(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(_: Any) -> Iterator[Finding]:
        time.sleep(30)
        yield Finding("never", "ok", "")

    def breaks(_: Any) -> Iterator[Finding]:
        raise ZeroDivisionError

    monkeypatch.setattr(examination, "PROBES", {"slow": hangs, "broken": breaks})
    report = look(stand_in, seconds=0.2)
    assert problems(report) == {"slow", "broken"}
    assert "ZeroDivisionError" in finding(report, "broken").text


@pytest.mark.parametrize("content", ["", "\0\udcff\x1b[2J" * 100, "flags : sgx\nMemTotal:\n", "::::\n:::"])
@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_rubbish_in_every_file_is_survived(stand_in: StandIn, content: str, tee: Any) -> None:
    raw = content.encode(errors="surrogateescape")
    for path in stand_in.root.rglob("*"):
        if path.is_file():
            path.write_bytes(raw)
    report = look(stand_in, tee=tee)
    assert report.findings
    assert not any("looking failed" in item.text for item in report.findings)


def test_an_empty_tree_is_survived(tmp_path: Path) -> None:
    report = examine(machine.Machine(tmp_path / "nothing", ""), tee="sgx", offline=True)
    assert not report.ready
    assert not any("looking failed" in item.text for item in report.findings)


# --- the command --------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = doctor.main([*arguments, "--offline"], standalone_mode=False)
    return code, capsys.readouterr().out


def test_the_exit_code_says_whether_what_was_asked_for_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = command(capsys, "--tee", "simulated", "--json")
    report = json.loads(out)
    assert (code, report["ready"], report["tee"]) == (0, True, "simulated")
    assert {item["check"] for item in report["findings"]} >= {"sgx", "memory", "container-engine"}
    if "tdx_guest" not in machine.Machine().cpu_flags:
        code, out = command(capsys, "--tee", "tdx", "--cloud", "azure-dcsv3")
        assert code == 6
        assert "✗ tdx-guest" in out
        assert "What works here" in out


def test_a_deployment_says_which_cloud_and_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text("name: mine\nmodel: {name: m, path: model}\ncloud: tencent-m6ce:sh\n")
    code, out = command(capsys, "-f", str(file), "--json")
    report = json.loads(out)
    assert (code, report["cloud"], report["tee"]) == (0, "tencent-m6ce:sh", "simulated")


def test_a_cloud_without_its_region_cannot_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="region"):
        doctor.main(["--cloud", "tencent-m6ce", "--tee", "sgx"], standalone_mode=False)
