"""Setup scripts run from beginning to end, with stand-ins for everything that they would change.

Only the programs in one directory can be reached: harmless ones of the system, and stand-ins that write down how they
were called.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealserve.deploy.clouds import load_profile, packages, render_qcnl, render_setup

BASH = "/bin/bash"
_REAL = "awk basename cat chmod cmp cp grep head install mkdir mktemp rm rmdir sleep sort tr"
_FAKES = "apt-get dnf systemctl udevadm usermod modprobe mount update-ca-certificates update-ca-trust"
_KEYS = {
    "intel-sgx-deb.key": packages.INTEL_FINGERPRINT,
    "gramine-keyring-jammy.gpg": packages.GRAMINE_FINGERPRINT_2021,
    "gramine-keyring-noble.gpg": "\n".join(packages.GRAMINE_FINGERPRINTS_2024),
}


class Sandbox:
    """A machine that a script believes to prepare."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "bin"
        self.calls = directory / "calls"
        self.qcnl = directory / "qcnl.conf"
        self.apt = directory / "apt"
        self.settings = [
            "enclave=/dev/null",
            "provision=/dev/null",
            f"aesm_socket={directory}/aesm",
            f"qcnl_file={self.qcnl}",
            f"os_release={directory}/os-release",
            f"apt_settings={self.apt}",
            f"cpuinfo={directory}/cpuinfo",
            f"configfs={directory}/configfs",
            f"modules={directory}",
            f"register={directory}/rtmr3",
        ]
        (self.apt / "sources.list.d").mkdir(parents=True)
        self.programs.mkdir()
        self.system("ubuntu", "24.04", "noble")
        for name in _REAL.split():
            (self.programs / name).symlink_to(str(shutil.which(name)))
        for name in _FAKES.split():
            self.fake(name, "")
        self.fake("id", "echo 0")
        self.fake("uname", "case $1 in -m) echo x86_64 ;; *) echo 6.16.0 ;; esac")
        self.fake("timedatectl", "echo yes")
        self.fake("getent", "")
        self.fake("mountpoint", "")
        # A key file holds its fingerprints; that is what the stand-in for gpg takes and gives.
        cases = " ".join(f"*/{name}) printf '{keys}\n' >\"$file\" ;;" for name, keys in _KEYS.items())
        self.fake(
            "curl",
            f'for file; do case $file in http*) url=$file ;; esac; done\nfor last in "$@"; do :; done\n'
            f'while [ "$1" != --output ]; do shift; done\nfile=$2\ncase $last in {cases} *) exit 22 ;; esac',
        )
        self.fake(
            "gpg",
            'case $* in\n*--import*) for file; do :; done; cp "$file" "$2/ring" ;;\n*--export*) cat "$2/ring" ;;\n'
            '*) while read -r key; do printf "pub:\nfpr:::::::::$key:\n"; done <"$2/ring" ;;\nesac',
        )

    def fake(self, name: str, body: str) -> None:
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(f'#!{BASH}\nprintf "%s\\n" "{name} $*" >>{self.calls}\n{body}\n')
        path.chmod(0o755)

    def system(self, name: str, version: str, codename: str) -> None:
        (self.directory / "os-release").write_text(f'ID={name}\nVERSION_ID="{version}"\nVERSION_CODENAME={codename}\n')

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        body, main, _ = script.rpartition('main "$@"\n')
        assert main
        path = self.directory / "script.sh"
        path.write_text("\n".join([body, *self.settings, main]))
        environment = {"PATH": str(self.programs), "SUDO_USER": "somebody", "TMPDIR": str(self.directory)}
        return subprocess.run(
            [BASH, path], env=environment, capture_output=True, text=True, check=False, timeout=60, cwd=self.directory
        )

    def called(self, name: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith(f"{name} ")]


@pytest.fixture
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path_factory.mktemp("s"))
    with socket.socket(socket.AF_UNIX) as aesm:
        aesm.bind(str(made.directory / "aesm"))
        yield made


@pytest.mark.parametrize(("version", "codename"), [("22.04", "jammy"), ("24.04", "noble")])
def test_a_machine_is_prepared_and_prepared_again(sandbox: Sandbox, version: str, codename: str) -> None:
    sandbox.system("ubuntu", version, codename)
    profile = load_profile("azure-dcsv3")
    for _ in range(2):
        done = sandbox.run(render_setup(profile))
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "== done. Next: sealserve doctor --cloud azure-dcsv3"
    assert json.loads(sandbox.qcnl.read_text()) == json.loads(render_qcnl(profile))
    installed = next(line for line in sandbox.called("apt-get") if "libsgx-dcap-default-qpl" in line)
    assert set(packages.APT) <= set(installed.split())
    assert sandbox.called("usermod")[:2] == ["usermod -aG sgx somebody", "usermod -aG sgx_prv somebody"]
    assert "systemctl restart aesmd" in sandbox.called("systemctl")
    assert (sandbox.apt / "keyrings/intel-sgx.gpg").read_text().strip() == packages.INTEL_FINGERPRINT


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not on this machine")
def test_apt_itself_reads_the_repositories(sandbox: Sandbox) -> None:
    assert sandbox.run(render_setup(load_profile("azure-dcsv3"))).returncode == 0
    command = ["/usr/bin/apt-get", "indextargets", "-o", "Dir::Etc::sourcelist=/dev/null", "--no-release-info"]
    command += ["-o", f"Dir::Etc::sourceparts={sandbox.apt}/sources.list.d"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    repositories = set(re.findall(r"^Repo-URI: (.*)$", done.stdout, re.MULTILINE))
    assert repositories == {f"{packages.INTEL_REPOSITORY}/", packages.GRAMINE_REPOSITORY}
    for name, key in [("intel-sgx.list", "intel-sgx.gpg"), ("gramine.list", "gramine.gpg")]:
        assert f"signed-by={sandbox.apt}/keyrings/{key}]" in (sandbox.apt / "sources.list.d" / name).read_text()


def test_a_strange_key_ends_the_script_before_anything_is_installed(sandbox: Sandbox) -> None:
    sandbox.fake("curl", 'while [ "$1" != --output ]; do shift; done\necho 0123456789ABCDEF >"$2"')
    done = sandbox.run(render_setup(load_profile("azure-dcsv3")))
    assert done.returncode == 1
    assert "0123456789ABCDEF" in done.stderr
    assert not any("sgx-aesm-service" in line for line in sandbox.called("apt-get"))
    assert not (sandbox.apt / "keyrings").exists()


def test_a_failed_download_ends_the_script(sandbox: Sandbox) -> None:
    sandbox.fake("curl", "exit 22")
    assert sandbox.run(render_setup(load_profile("azure-dcsv3"))).returncode != 0
    assert not (sandbox.apt / "keyrings").exists()


def test_an_unsigned_line_of_the_original_is_replaced_and_one_elsewhere_is_named(sandbox: Sandbox) -> None:
    line = f"deb [trusted=yes arch=amd64] {packages.INTEL_REPOSITORY} focal main\n"
    own = sandbox.apt / "sources.list.d/intel-sgx.list"
    own.write_text(line)
    assert sandbox.run(render_setup(load_profile("azure-dcsv3"))).returncode == 0
    assert "signed-by=" in own.read_text()
    other = sandbox.apt / "sources.list.d/intelsgx.list"
    other.write_text(line)
    done = sandbox.run(render_setup(load_profile("azure-dcsv3")))
    assert done.returncode == 1
    assert str(other) in done.stderr


def test_a_system_of_the_clouds_own_takes_its_packages(sandbox: Sandbox) -> None:
    sandbox.system("alinux", "3", "")
    (sandbox.programs / "apt-get").unlink()
    done = sandbox.run(render_setup(load_profile("alibaba-g7t:cn-hangzhou")))
    assert done.returncode == 0, done.stdout + done.stderr
    added, installed = sandbox.called("dnf")[1:]
    assert added.endswith(
        "https://enclave-cn-hangzhou.oss-cn-hangzhou-internal.aliyuncs.com/repo/alinux/enclave-expr.repo"
    )
    assert "*.gpgcheck=1" in installed
    assert "sgx-aesm-service" in installed


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (("ubuntu", "18.04", "bionic"), "none that the script knows: ubuntu 22.04 and 24.04"),
        (("fedora", "42", ""), "none that the script knows"),
    ],
)
def test_an_unknown_system_is_left_alone(sandbox: Sandbox, breaks: tuple[str, str, str], words: str) -> None:
    sandbox.system(*breaks)
    done = sandbox.run(render_setup(load_profile("azure-dcsv3")))
    assert done.returncode == 1
    assert words in done.stderr
    assert not sandbox.called("apt-get") if sandbox.calls.exists() else True


def test_a_machine_without_driver_is_left_alone(sandbox: Sandbox) -> None:
    sandbox.settings[0] = "enclave=/dev/there-is-none"
    sandbox.fake("uname", "case $1 in -m) echo x86_64 ;; *) echo 5.4.0 ;; esac")
    done = sandbox.run(render_setup(load_profile("azure-dcsv3")))
    assert done.returncode == 1
    assert "5.11" in done.stderr
    assert sandbox.called("apt-get") == []


def test_who_is_not_root_is_told_so(sandbox: Sandbox) -> None:
    sandbox.fake("id", "echo 1000")
    for tee in ("sgx", "tdx"):
        done = sandbox.run(render_setup(load_profile("azure-dcsv3"), tee=tee))  # type: ignore[arg-type]
        assert done.returncode == 1
        assert "root" in done.stderr


def test_a_tdx_guest_is_prepared(sandbox: Sandbox) -> None:
    reports = sandbox.directory / "configfs/tsm/report"
    reports.mkdir(parents=True)
    (sandbox.directory / "cpuinfo").write_text("flags : fpu tdx_guest\n")
    (sandbox.directory / "rtmr3").touch()
    # configfs itself makes the files of an entry, and removes them with it.
    sandbox.fake("mkdir", f'{shutil.which("mkdir")} "$1" && echo tdx_guest >"$1/provider"')
    sandbox.fake("rmdir", f'{shutil.which("rm")} -r "$1"')
    done = sandbox.run(render_setup(load_profile("bytedance-ebmg2t"), tee="tdx"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(reports.iterdir()) == []
    assert (sandbox.directory / "sealserve-tdx.conf").read_text() == "tdx_guest\n"
    sandbox.fake("mkdir", f'{shutil.which("mkdir")} "$1" && echo sev_guest >"$1/provider"')
    done = sandbox.run(render_setup(load_profile("bytedance-ebmg2t"), tee="tdx"))
    assert done.returncode == 1
    assert "sev_guest" in done.stderr
    sandbox.fake("uname", "case $1 in -m) echo x86_64 ;; *) echo 6.8.0-31-generic ;; esac")
    assert "6.16" in sandbox.run(render_setup(load_profile("bytedance-ebmg2t"), tee="tdx")).stderr
