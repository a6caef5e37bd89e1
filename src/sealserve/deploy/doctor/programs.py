"""Programs beside sealserve: Gramine, and a container engine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sealserve.deploy.doctor.finding import Finding, Level, Question

_OLDEST_GRAMINE = (1, 8)  # since then RA-TLS certificates carry evidence in the interoperable form
# Program → how it says its version. A server that does not run fails.
_ENGINES = {
    "docker": ("version", "--format", "{{.Server.Version}}"),
    "podman": ("version", "--format", "{{.Client.Version}}"),
    "buildah": ("--version",),
}


def examine_gramine(question: Question) -> Iterator[Finding]:
    """Gramine on this machine, which measures and signs; replicas bring their own in the image."""
    if question.tee == "tdx":
        return
    level: Level = "warning" if question.tee == "sgx" else "note"
    if not question.machine.has_program("gramine-sgx"):
        yield Finding(
            "gramine",
            level,
            "Gramine is not installed here: images bring their own, and signing and measuring outside of one needs it",
            question.setup if question.tee == "sgx" else "https://gramine.readthedocs.io/en/stable/installation.html",
        )
        return
    said = question.machine.run("gramine-sgx", "--version")
    found = re.search(r"Gramine ([0-9]{1,3})\.([0-9]{1,3})", said or "")
    if found is None:
        yield Finding("gramine", level, "gramine-sgx does not say its version", "gramine-sgx --version")
        return
    version = f"{found[1]}.{found[2]}"
    if (int(found[1]), int(found[2])) < _OLDEST_GRAMINE:
        yield Finding("gramine", level, f"Gramine {version} is out of date: 1.9 is current", question.setup)
    else:
        yield Finding("gramine", "ok", f"Gramine {version} is installed")


def examine_engine(question: Question) -> Iterator[Finding]:
    """Docker, Podman or Buildah."""
    machine = question.machine
    silent = []
    for name, arguments in _ENGINES.items():
        if not machine.has_program(name):
            continue
        said = machine.run(name, *arguments)
        if said:
            yield Finding("container-engine", "ok", f"{name} works ({said.splitlines()[0].removeprefix('buildah ')})")
            return
        silent.append(name)
    level: Level = "warning" if question.tee == "sgx" else "note"
    if machine.in_container:
        yield Finding("container-engine", "note", "this is a container itself, and has no container engine")
    elif silent:
        yield Finding(
            "container-engine",
            level,
            f"{' and '.join(silent)} {'is' if len(silent) == 1 else 'are'} installed and not usable by this user",
            f'sudo systemctl enable --now {silent[0]}; sudo usermod -aG {silent[0]} "$USER", and log in again',
        )
    else:
        yield Finding(
            "container-engine",
            level,
            "there is no container engine: images cannot be built or run here",
            "sudo apt-get install docker.io",
        )
