"""Where packages come from if several repositories have them: apt itself says so, over lists that it has fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sealserve.kubernetes.machine import pins
from sealserve.kubernetes.machine.recipe import Choices, steps
from sealserve.kubernetes.machine.steps import WriteFile

pytestmark = pytest.mark.skipif(shutil.which("apt-cache") is None, reason="this is no Debian")

DOCKER, KUBERNETES = "download.docker.com", "pkgs.k8s.io"
OURS = {pins.CONTAINERD_PACKAGE: DOCKER, **dict.fromkeys(pins.KUBERNETES_PACKAGES, KUBERNETES)}
LISTS = {  # server → lists as apt calls them, and the line that brings them
    DOCKER: ("linux_debian_dists_trixie_stable_binary-amd64", "linux/debian trixie stable"),
    KUBERNETES: (f"core:_stable:_v{pins.KUBERNETES_MINOR}_deb", f"core:/stable:/v{pins.KUBERNETES_MINOR}/deb/ /"),
    "packages.example": ("debian_dists_trixie_main_binary-amd64", "debian trixie main"),
    "deb.debian.org": ("debian_dists_trixie_main_binary-amd64", "debian trixie main"),
}


def _candidates(root: Path, offers: dict[str, dict[str, str]], *, pinned: bool) -> dict[str, str]:
    """Package → the version that apt would install. :param offers: server → package → version."""
    for directory in ("etc/preferences.d", "lists/partial", "cache"):
        (root / directory).mkdir(parents=True)
    (root / "status").touch()
    lines = []
    for server, packages in offers.items():
        name, line = LISTS[server]
        lines.append(f"deb [trusted=yes arch=amd64] https://{server}/{line}\n")
        (root / f"lists/{server}_{name}_Packages").write_text(
            "".join(
                f"Package: {package}\nVersion: {version}\nArchitecture: amd64\nFilename: x.deb\nSize: 1\n\n"
                for package, version in packages.items()
            )
        )
    (root / "etc/sources.list").write_text("".join(lines))
    choices = Choices("debian", "trixie", "node", own_containerd=True, kubeconfig="/root/.kube/config")
    for step in steps(choices):
        if pinned and isinstance(step, WriteFile) and "/preferences.d/" in step.path:
            assert isinstance(step.content, bytes)
            (root / "etc/preferences.d" / Path(step.path).name).write_bytes(step.content)
    settings = {
        "Dir::Etc": "etc",
        "Dir::State::lists": "lists",
        "Dir::State::status": "status",
        "Dir::Cache": "cache",
    }
    options = [f"-o{key}={root / path}" for key, path in settings.items()]
    names = {name for packages in offers.values() for name in packages}
    command = ["apt-cache", "-oAPT::Architecture=amd64", "-oAPT::Architectures=amd64", *options, "policy", *names]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "APT_CONFIG": "/dev/null"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return dict(re.findall(r"^(\S+):\n.*\n  Candidate: (\S+)$", done.stdout, re.MULTILINE))


def _offers(version: str) -> dict[str, str]:
    return dict.fromkeys(OURS, version)


def test_packages_come_from_their_own_repository_whatever_others_offer(tmp_path: Path) -> None:
    offers = {
        server: {**{name: "1.0" for name, own in OURS.items() if own == server}, "bash": "9.0"}
        for server in (DOCKER, KUBERNETES)
    } | {"packages.example": _offers("2.0"), "deb.debian.org": {"bash": "5.0"}}
    assert _candidates(tmp_path / "with", offers, pinned=True) == {**_offers("1.0"), "bash": "5.0"}
    assert _candidates(tmp_path / "without", offers, pinned=False) == {**_offers("2.0"), "bash": "9.0"}


def test_packages_come_from_nowhere_else_if_their_own_repository_has_them_not(tmp_path: Path) -> None:
    offers = {server: _offers("2.0") for server in LISTS}
    for server in (DOCKER, KUBERNETES):
        offers[server] = {name: "2.0" for name, own in OURS.items() if own != server}
    assert set(_candidates(tmp_path, offers, pinned=True).values()) == {"(none)"}
