"""`sealserve serve` beside itself under gramine-direct: the same Python, the same files, on this machine.

The manifest is the one that `sealserve image render` writes for a replica, with this machine's paths for the image's.
Only what is started differs: ``serve`` in the place of ``replica``, which needs SGX.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._image_packages import lay_out, link, prune
from sealserve.deploy import load_deployment
from sealserve.deploy.images.layout import SEALED_DIRECTORY, ImageLayout
from sealserve.deploy.images.rendering import render

Command = tuple[list[str], dict[str, str]]
TOOLS = ("gramine-manifest", "gramine-sgx-sign", "gramine-sgx-sigstruct-view", "gramine-direct")
_PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
_LIBRARY = Path(f"/usr/lib/{_PYTHON.name}")
_PATIENCE = 120.0  # seconds


def reason_to_skip() -> str | None:
    """Why nothing can be run under Gramine on this machine."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"Gramine is not on PATH: no {', '.join(missing)}"
    if not _PYTHON.is_file():
        return f"the distribution's {_PYTHON} is not there, and an image has the distribution's Python"
    return None


def run(*command: str | os.PathLike[str]) -> str:
    """What a tool prints.

    :raises RuntimeError: it failed; with its complaint.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr or done.stdout}")
    return done.stdout


@functools.cache
def gramine_directory() -> str:
    """Where Gramine lies: the directory of ``runtime/glibc``."""
    template = 'runtime = "{{ gramine.runtimedir() }}"'
    runtime: str = tomllib.loads(run("gramine-manifest", "--no-check", "-c", template))["runtime"]
    return str(Path(runtime).parents[1])


@dataclass(frozen=True)
class Machine:
    """This machine's files in the shape of an image: the distribution's Python, and hard links to our packages."""

    directory: Path
    layout: ImageLayout

    @classmethod
    def prepare(cls, directory: Path) -> Machine:
        """Make the directory ready."""
        packages, library, authority = (directory / name for name in ("packages", "library", "broker-ca.pem"))
        lay_out("openvino", packages)
        shutil.copytree(_LIBRARY, library, copy_function=link, ignore=shutil.ignore_patterns("__pycache__"))
        for modules in (packages, library):
            prune(_PYTHON, modules)
        authority.write_text("-----BEGIN CERTIFICATE-----\n")
        layout = ImageLayout(
            python=str(_PYTHON),
            standard_library=str(library),
            packages=str(packages),
            libraries="/usr/lib/x86_64-linux-gnu",
            gramine=gramine_directory(),
            broker_ca=str(authority),
        )
        return cls(directory, layout)

    def inside(
        self, name: str, arguments: Sequence[str], sealed: Path, mounts: Sequence[dict[str, str]] = (), **keys: str
    ) -> Command:
        """Command and environment of a program under Gramine; its manifest is written and expanded.

        :param arguments: after ``python``. :param sealed: what the enclave sees at ``/sealed``.
        :param mounts: further mounts, whose files the host may choose unless they have a type.
        :param keys: of encrypted mounts, by name, in hexadecimal.
        """
        deployment = self.directory / "deployment.yaml"
        deployment.write_text("name: mine\ntee: sgx\nmodel: {name: tiny, path: model}\nreplicas: {threads: 2}\n")
        text, _ = render(load_deployment(deployment), root=Path("/"), model_size=1 << 27, layout=self.layout)
        argv = json.dumps([self.layout.python, *arguments])
        text = re.sub(r"loader\.argv = \[.*?\n\]", lambda _: f"loader.argv = {argv}", text, flags=re.DOTALL)
        text = re.sub(
            r"(fs\.mounts = \[\n.*?)(?=\n\])", lambda found: found[1] + _written(mounts), text, flags=re.DOTALL
        )
        allowed = "".join(f"{json.dumps(mount['uri'] + '/')}, " for mount in mounts if "type" not in mount)
        text = text.replace("sgx.allowed_files = [", f"sgx.allowed_files = [{allowed}", 1)
        text = text.replace(f'"file:{SEALED_DIRECTORY}', f'"file:{sealed}')
        text = text.replace(f'path = "{self.layout.standard_library}"', f'path = "{_LIBRARY}"')
        text += "".join(f"fs.insecure__keys.{key} = {json.dumps(value)}\n" for key, value in keys.items())
        source, path = self.directory / f"{name}.rendered", self.directory / name
        source.write_text(text)
        run("gramine-manifest", source, f"{path}.manifest")
        return ["gramine-direct", str(path)], {"PATH": os.environ["PATH"]}

    def outside(self, arguments: Sequence[str]) -> Command:
        """Command and environment of the same program without Gramine."""
        environment = {"LC_ALL": "C.UTF-8", "PYTHONPATH": self.layout.packages, "PYTHONDONTWRITEBYTECODE": "1"}
        return [self.layout.python, *arguments], environment


@dataclass
class Started:
    """A server's process. :ivar seconds: from its start to each event of its log."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float
    seconds: dict[str, float]

    def wait_for(self, event: str) -> None:
        """Until the log has that event.

        :raises RuntimeError: the process ended, or it takes too long; with the log.
        """
        while event not in self.seconds:
            text = self.log.read_text(errors="replace")
            for line in text.splitlines():
                with contextlib.suppress(ValueError):
                    entry: dict[str, Any] = json.loads(line)
                    self.seconds.setdefault(entry.get("event", ""), time.monotonic() - self.started)
            if self.process.poll() is not None or time.monotonic() > self.started + _PATIENCE:
                raise RuntimeError(f"no {event}: {text}")
            time.sleep(0.02)


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[Started]:
    """A process, until the end of the block."""
    with log.open("wb") as file:
        begin = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        yield Started(process, log, begin, {})
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _written(mounts: Sequence[dict[str, str]]) -> str:
    return "".join(f"\n  {{ {', '.join(f'{key} = {json.dumps(mount[key])}' for key in mount)} }}," for mount in mounts)
