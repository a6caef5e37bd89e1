"""Installing a cluster on a machine and taking it back, on a stand-in: what was there before is there afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from machine_stand_in import KEYS, RULES_BEFORE, FailedError, StandIn, put_on_path

from sealserve.cli.kubernetes_install import install as command
from sealserve.errors import InputError, MachineError
from sealserve.kubernetes.machine import installing, pins, recipe, steps
from sealserve.kubernetes.machine.cluster import without_cluster
from sealserve.kubernetes.machine.host import Host
from sealserve.kubernetes.machine.journal import Journal
from sealserve.kubernetes.machine.keys import SigningKeyError
from sealserve.kubernetes.machine.recipe import Choices

PLUGIN = f"intel/intel-sgx-plugin:0.36.0@sha256:{64 * '3'}"


class Killed(BaseException):
    """The machine loses its power."""


@dataclass(frozen=True)
class StandInHost(Host):
    """Calls a stand-in in the place of programs. :ivar left: how many moments there are until power is lost."""

    machine: StandIn = field(default_factory=lambda: StandIn(Path("/nowhere")))
    left: list[int] = field(default_factory=lambda: [10**9])

    def moment(self) -> None:
        self.left[0] -= 1
        if self.left[0] == 0:
            raise Killed

    def _run(self, command: tuple[str, ...], given: str = "") -> str:
        self.moment()
        said = self.machine.run(list(command), given)
        self.moment()
        return said

    def ask(self, *command: str) -> str | None:
        try:
            return self._run(command)
        except FailedError:
            return None

    def read(self, *command: str) -> str:
        try:
            return self._run(command)
        except FailedError as error:
            raise MachineError(str(error)) from error

    def do(self, *command: str, given: str | None = None) -> None:
        try:
            self._run(command, given or "")
        except FailedError as error:
            raise MachineError(str(error)) from error


@pytest.fixture
def host(tmp_path, monkeypatch) -> StandInHost:
    return fresh(tmp_path / "root", monkeypatch)


def fresh(root: Path, monkeypatch) -> StandInHost:
    host = StandInHost(root, StandIn.make(root))
    saved = Journal.__dict__["save"] if not hasattr(Journal.save, "real") else Journal.save.real

    def save(journal: Journal) -> None:
        host.moment()
        saved(journal)
        host.moment()

    save.real = saved
    monkeypatch.setattr(Journal, "save", save)
    # What is asked of this very machine, and not of the stand-in.
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_dir="/root", pw_uid=0, pw_gid=0))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody here loses real power
    return host


def choices(host: Host, **options) -> Choices:
    return installing.planned(host, **options)[0]


def install(host: StandInHost) -> bool:
    return installing.install(host, choices(host), say=lambda _: None)


def undo(host: StandInHost) -> list[str]:
    return installing.undo(host, say=lambda _: None)


def test_a_machine_becomes_a_cluster_and_is_afterwards_what_it_was(host) -> None:
    before = host.machine.snapshot()
    assert not list(installing.hindrances(host, sgx=False))
    assert install(host)
    packages = host.machine.packages()
    assert {name for name in pins.KUBERNETES_PACKAGES if packages[name] == "installed"} == set(pins.KUBERNETES_PACKAGES)
    assert host.path("/root/.kube/config").read_text() == "the way to the cluster"
    calls = len(host.machine.calls)
    after = host.machine.snapshot()
    assert not install(host)
    assert host.machine.snapshot() == after
    assert {tuple(call) for call in host.machine.calls[calls:]} <= {
        ("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n")
    }
    assert undo(host) == []
    assert host.machine.snapshot() == before
    assert not installing.is_begun(host)
    assert undo(host) == []


def moments(root: Path, monkeypatch) -> tuple[int, int]:
    """How many moments an installation has, and taking it back."""
    host = fresh(root, monkeypatch)
    install(host)
    whole = 10**9 - host.left[0]
    host.left[0] = 10**9
    undo(host)
    return whole, 10**9 - host.left[0]


def lose_power(root: Path, at: int, back_at: int, monkeypatch, *, go_on: bool) -> None:
    host = fresh(root, monkeypatch)
    before = host.machine.snapshot()
    host.left[0] = at
    with pytest.raises(Killed):
        install(host)
    host.left[0] = 10**9
    if go_on:
        install(host)
        assert not install(host)
    host.left[0] = back_at
    try:
        undo(host)
    except Killed:
        host.left[0] = 10**9
        undo(host)
    left = host.machine.snapshot()
    for name in ("var/lib/sealserve/kubernetes", "var/lib/sealserve/kubernetes/lock", "var/lib/sealserve"):
        left.pop(name, None)  # power was lost between the last word of the journal and its end
    assert left == before, (at, back_at, go_on)


def test_power_may_be_lost_at_some_moments(tmp_path, monkeypatch) -> None:
    whole, back = moments(tmp_path / "whole", monkeypatch)
    for part in range(3):
        at = 1 + part * whole // 3
        lose_power(tmp_path / f"on{part}", at, 1 + part * back // 3, monkeypatch, go_on=True)
        lose_power(tmp_path / f"off{part}", whole - at + 1, 10**9, monkeypatch, go_on=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_power_may_be_lost_at_many_moments(tmp_path, monkeypatch) -> None:
    whole, back = moments(tmp_path / "whole", monkeypatch)
    for at in range(1, whole + 1, 9):
        lose_power(tmp_path / f"on{at}", at, 1 + at * 7 % back, monkeypatch, go_on=True)
        lose_power(tmp_path / f"off{at}", at, 1 + at * 5 % back, monkeypatch, go_on=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_may_be_killed_at_any_time(tmp_path) -> None:
    root, programs = tmp_path / "root", tmp_path / "bin"
    machine = StandIn.make(root)
    put_on_path(root, programs)
    before = machine.snapshot()
    script = (
        "import sys; from pathlib import Path; from sealserve.kubernetes.machine import installing as i; "
        "from sealserve.kubernetes.machine.host import Host; h = Host(Path(sys.argv[1])); "
        "i.undo(h, say=print) if sys.argv[2] == 'undo' else i.install(h, i.planned(h)[0], say=print)"
    )

    def run(what: str, seconds: float | None) -> bool:
        environment = os.environ | {"PATH": str(programs), "PYTHONPATH": os.pathsep.join(sys.path)}
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", script, root, what],
                env=environment,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            assert process.wait(seconds) == 0, (tmp_path / "log").read_text()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
        return True

    started = time.monotonic()
    assert run("install", 120)
    whole = time.monotonic() - started
    started = time.monotonic()
    assert run("undo", 120)
    back = time.monotonic() - started
    for number in range(1, 4):
        for _ in range(2):
            run("install", whole * number / 4)
        if number % 2:
            assert run("install", 120)
        run("undo", back * number / 4)
        assert run("undo", 120)
        left = {name: what for name, what in machine.snapshot().items() if not name.startswith("var/lib/sealserve")}
        assert left == before


def test_a_strange_key_ends_it_before_anything_comes_from_there(host, monkeypatch) -> None:
    before = host.machine.snapshot()
    monkeypatch.setitem(KEYS, pins.KUBERNETES_KEY, "0" * 40)
    with pytest.raises(SigningKeyError, match="0000"):
        install(host)
    assert "kubeadm" not in host.machine.packages()
    assert not host.path("/etc/apt/sources.list.d/sealserve-kubernetes.sources").exists()
    undo(host)
    assert host.machine.snapshot() == before


def test_a_package_that_says_it_provides_another_is_not_taken_in_its_place(host, monkeypatch) -> None:
    real = host.machine._apt_get

    def with_another(*arguments: str) -> str:
        return real(*("their-own" if each == pins.CONTAINERD_PACKAGE else each for each in arguments))

    monkeypatch.setattr(host.machine, "_apt_get", with_another)
    with pytest.raises(MachineError, match=r"no repository has containerd\.io, in whose place"):
        install(host)
    assert "their-own" not in host.machine.packages()


def test_containerd_of_dockers_keeps_its_settings(host) -> None:
    host.machine.save_packages(host.machine.packages() | {"containerd.io": "installed", "docker-ce": "installed"})
    host.machine.write("/etc/containerd/config.toml", 'disabled_plugins = ["cri"]\n')
    before = host.machine.snapshot()
    assert not list(installing.hindrances(host, sgx=False))
    install(host)
    assert "SystemdCgroup" in host.path("/etc/containerd/config.toml").read_text()
    assert not host.path("/etc/apt/keyrings/sealserve-docker.gpg").exists()
    undo(host)
    assert host.machine.snapshot() == before
    assert host.machine.calls[-1] != ["systemctl", "restart", "containerd"]
    restarts = [call for call in host.machine.calls if call == ["systemctl", "restart", "containerd"]]
    assert len(restarts) == 2


def test_containerd_of_dockers_has_to_be_new_enough(host, monkeypatch) -> None:
    host.machine.save_packages(host.machine.packages() | {"containerd.io": "installed"})
    monkeypatch.setattr(StandIn, "_containerd", lambda *_: "containerd containerd.io 1.7.27 05044ec\n")
    (found,) = installing.hindrances(host, sgx=False)
    assert "older than 2" in found


def test_what_came_later_and_needs_it_is_not_removed(host) -> None:
    before = host.machine.snapshot()
    install(host)
    host.machine.save_packages(host.machine.packages() | {"docker-ce": "installed"})
    with pytest.raises(MachineError, match="docker-ce came later"):
        undo(host)
    packages = host.machine.packages()
    assert packages.pop("docker-ce")
    assert packages["containerd.io"]
    host.machine.save_packages(packages)
    undo(host)
    assert host.machine.snapshot() == before


def test_what_was_changed_or_mounted_meanwhile_stays(host) -> None:
    install(host)
    host.machine.write("/root/.kube/config", "another cluster as well")
    host.machine.write("/proc/self/mountinfo", "1 2 0:1 / /var/lib/kubelet/pods/a/volumes/nfs rw - nfs x rw\n")
    with pytest.raises(MachineError, match="still mounted"):
        undo(host)
    host.machine.write("/proc/self/mountinfo", "")
    undo(host)
    assert host.path("/root/.kube/config").read_text() == "another cluster as well"


def test_a_way_to_another_cluster_is_left_alone(host) -> None:
    host.machine.write("/root/.kube/config", "another cluster")
    install(host)
    assert host.path("/root/.kube/config").read_text() == "another cluster"
    assert host.path("/root/.kube/sealserve.config").read_text() == "the way to the cluster"


def test_what_was_changed_meanwhile_is_not_written_again(host) -> None:
    install(host)
    host.machine.write("/root/.kube/config", "the way to the cluster, and to another one")
    assert not install(host)
    assert host.path("/root/.kube/config").read_text() == "the way to the cluster, and to another one"
    host.path("/etc/modules-load.d/sealserve-kubernetes.conf").unlink()
    assert install(host)
    assert host.path("/etc/modules-load.d/sealserve-kubernetes.conf").exists()


def test_a_users_file_is_written_with_no_right_of_roots(tmp_path, monkeypatch) -> None:
    acting, wrote = [0], []
    monkeypatch.setattr(os, "geteuid", lambda: acting[0])
    monkeypatch.setattr(os, "seteuid", lambda user: acting.append(user) or acting.pop(0))
    monkeypatch.setattr(os, "setegid", lambda _: None)
    monkeypatch.setattr(os, "setgroups", lambda _: None)
    monkeypatch.setattr(steps, "write_atomically", lambda *_, **__: wrote.append(acting[0]))
    step = steps.WriteFile("file", "", "/home/olga/.kube/config", b"", owner=(1000, 1000))
    with Journal.locked(tmp_path / "state") as journal:
        step.apply(Host(tmp_path), journal.begin("file"))
    assert (wrote, acting) == ([1000], [0])


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone has what it could give away")
def test_a_link_in_a_users_directory_leads_root_nowhere() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to everybody else
        root = Path(name)
        root.chmod(0o755)
        home, others = root / "home", root / "etc"
        home.mkdir()
        others.mkdir()
        os.chown(home, 65534, 65534)
        (home / ".kube").symlink_to(others)
        step = steps.WriteFile("file", "", "/home/.kube/config", b"keys", mode=0o600, owner=(65534, 65534))
        with Journal.locked(root / "state") as journal, pytest.raises(InputError, match="Permission"):
            step.apply(Host(root), journal.begin("file"))
        assert list(others.iterdir()) == []
        assert (os.geteuid(), os.getegid()) == (0, 0)


def test_only_one_run_is_at_work(host) -> None:
    with Journal.locked(host.path(pins.STATE)), pytest.raises(MachineError, match="another"):
        install(host)


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("/etc/os-release", "ID=fedora\nVERSION_ID=42\n", "none of: ubuntu 22.04"),
        ("/etc/kubernetes/admin.conf", "x", "a cluster of kubeadm"),
        ("/proc/net/tcp6", "h\n 0: 00000000:192B 0:0 0A\n", "port 6443"),
        ("/proc/meminfo", "MemTotal: 1000000 kB\n", "memory"),
        ("/proc/net/route", "h\ncni0 0000F40A 00000000 1 0 0 0 00FFFFFF\n", "10.244.0.0/24"),
        ("/etc/containerd/config.toml", "version = 2\n[plugins]\n", "settings of yours"),
        ("/etc/apt/sources.list.d/k.list", "deb https://pkgs.k8s.io/core:/stable:/v1.36/deb/ /\n", "move it away"),
        ("/kernel/packages", '{"kubelet": "installed"}', "kubelet is installed"),
        ("/kernel/packages", '{"docker.io": "installed"}', "distribution's docker.io"),
    ],
)
def test_what_stands_in_the_way_is_said_before_anything_is_changed(host, path, text, words) -> None:
    host.machine.write(path, text)
    (found,) = installing.hindrances(host, sgx=False)
    assert words in found


def test_machines_without_systemd_cgroup_v2_or_sgx_are_told_so(host) -> None:
    host.path("/run/systemd/system").rmdir()
    host.path("/sys/fs/cgroup/cgroup.controllers").unlink()
    found = " ".join(installing.hindrances(host, sgx=True))
    assert "systemd does not run" in found
    assert "cgroup v1" in found
    assert "/dev/sgx_enclave" in found


def test_sgx_brings_intels_plugin_and_says_how_much_memory_there_is(host) -> None:
    with pytest.raises(MachineError, match="EPC"):
        choices(host, sgx_plugin=PLUGIN)
    host.machine.write("/sys/devices/system/node/node0/x86/sgx_total_bytes", "8589934592\n")
    installing.install(host, choices(host, sgx_plugin=PLUGIN), say=lambda _: None)
    patched = host.machine.calls[-1]
    assert '--patch={"status": {"capacity": {"sgx.intel.com/epc": "8589934592"}}}' in patched
    with pytest.raises(InputError, match="what was begun here"):
        choices(host, sgx_plugin=PLUGIN.replace("3", "4"))
    assert choices(host).sgx_plugin == PLUGIN


@pytest.mark.parametrize("name", ["kube-router", "sgx-plugin"])
def test_manifests_are_valid_for_kubernetes(name) -> None:
    import kubernetes_validate

    for document in yaml.safe_load_all(recipe._manifest(name, PLUGIN)):
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_every_step_says_what_it_does(host) -> None:
    names = set()
    for step in recipe.steps(choices(host)):
        assert step.title
        assert step.shown()
        names.add(step.name)
    assert len(names) == len(recipe.steps(choices(host)))
    shown = "\n".join(line for step in recipe.steps(choices(host)) for line in step.shown())
    assert pins.KUBERNETES_FINGERPRINT in shown
    assert pins.DOCKER_FINGERPRINT in shown
    assert "kubeadm init" in shown
    assert pins.KUBE_ROUTER in shown


def test_rules_of_others_stay_in_the_packet_filter() -> None:
    assert without_cluster(RULES_BEFORE) == RULES_BEFORE


def test_a_dry_run_shows_the_plan_and_changes_nothing() -> None:
    done = CliRunner().invoke(command, ["--dry-run"])
    assert done.exit_code == 0, done.output
    assert "kubeadm init --config" in done.output
    done = CliRunner().invoke(command, ["--dry-run", "--sgx", "intel/intel-sgx-plugin:0.36.0"])
    assert isinstance(done.exception, InputError)
