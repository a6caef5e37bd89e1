"""The machine that is installed on: its files and its commands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.errors import InputError, MachineError
from sealserve.files import read_file

_ENVIRONMENT: Final = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Host:
    """A machine. :ivar root: where its files begin."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """Where the file ``name`` (absolute) of the machine is."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """The content of a file; empty if there is none."""
        try:
            return read_file(self.path(name)).decode(errors="replace")
        except InputError:
            return ""

    def ask(self, *command: str) -> str | None:
        """What a command says; None if it fails or is not there."""
        try:
            done = subprocess.run(command, check=False, capture_output=True, env=os.environ | _ENVIRONMENT)
        except OSError:
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    def read(self, *command: str) -> str:
        """What a command prints. :raises MachineError: it fails; what it says of that goes to standard error."""
        try:
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, env=os.environ | _ENVIRONMENT)
        except OSError as error:
            raise MachineError(f"{command[0]} cannot be started: {error.strerror}") from error
        if done.returncode:
            raise _failed(command, done.returncode)
        return done.stdout.decode(errors="replace")

    def do(self, *command: str, given: str | None = None) -> None:
        """Run a command in the foreground; what it prints goes to standard error.

        :param given: its standard input.
        :raises MachineError: it fails.
        """
        try:
            done = subprocess.run(
                command,
                check=False,
                stdout=2,
                stdin=subprocess.DEVNULL if given is None else None,
                input=None if given is None else given.encode(),
                env=os.environ | _ENVIRONMENT,
            )
        except OSError as error:
            raise MachineError(f"{command[0]} cannot be started: {error.strerror}") from error
        if done.returncode:
            raise _failed(command, done.returncode)


def _failed(command: Sequence[str], status: int) -> MachineError:
    return MachineError(
        f"`{_short(command)}` failed with status {status}; what it said is above",
        hint="Mend what it complains of and run this again: it goes on where it stopped. --undo takes back what was "
        "done.",
    )


def _short(command: Sequence[str]) -> str:
    text = " ".join(command)
    return text if len(text) <= 100 else f"{text[:97]}..."
