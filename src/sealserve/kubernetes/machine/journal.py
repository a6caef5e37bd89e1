"""What was changed on a machine, written down before it is changed: so that it can be gone on with, and taken back."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sealserve.errors import InputError, MachineError
from sealserve.files import explain_os_error, make_directory, read_file, write_atomically

_VERSION: Final = 1


class Journal:
    """The record of an installation, in ``directory``; use :meth:`locked`.

    :ivar choices: what was asked for when it began. Empty before.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "journal.json"
        self.choices: dict[str, Any] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            try:
                content = json.loads(read_file(self._path))
                if content["version"] != _VERSION:
                    raise InputError(f"{self._path} was written by another version of sealserve")
                self.choices, self._steps = dict(content["choices"]), dict(content["steps"])
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{self._path}, the record of what was installed, is damaged") from None

    @classmethod
    @contextlib.contextmanager
    def locked(cls, directory: Path) -> Iterator[Journal]:
        """The journal in a directory, which is made, for one run at a time; an empty one goes again.

        :raises MachineError: another run has it. :raises InputError: it cannot be written.
        """
        make_directory(directory.parent, mode=0o755)  # whatever the umask is: nobody else may put another in its place
        make_directory(directory)
        lock = directory / "lock"
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise explain_os_error(error, lock, "write") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise MachineError("another `sealserve k8s install` is at work here") from None
            journal = cls(directory)
            yield journal
            if not journal._steps:
                journal._remove(directory)
        finally:
            os.close(descriptor)

    @property
    def begun(self) -> bool:
        """Whether anything was, or is about to be, changed."""
        return bool(self._steps)

    def record(self, step: str) -> Record | None:
        """What is written down of a step; None if it was not begun."""
        return Record(self, self._steps[step]) if step in self._steps else None

    def begin(self, step: str) -> Record:
        """Write down that a step begins, or that it is gone on with."""
        self._steps.setdefault(step, {})
        self.save()
        return Record(self, self._steps[step])

    def forget(self, step: str) -> None:
        """Write down that a step was taken back."""
        del self._steps[step]
        self.save()

    def save(self) -> None:
        content = {"version": _VERSION, "choices": self.choices, "steps": self._steps}
        write_atomically(self._path, json.dumps(content, indent=1) + "\n", mode=0o600)

    def _remove(self, directory: Path) -> None:
        for name in ("journal.json", "lock"):
            (directory / name).unlink(missing_ok=True)
        for path in (directory, directory.parent):
            with contextlib.suppress(OSError):  # something else is in it
                path.rmdir()


@dataclass(frozen=True)
class Record:
    """What is written down of one step."""

    journal: Journal
    content: dict[str, Any]

    @property
    def done(self) -> bool:
        return bool(self.content.get("done"))

    def get(self, name: str) -> Any:
        return self.content.get(name)

    def save(self, **content: Any) -> None:
        """Write down more, before it is done."""
        self.content.update(content)
        self.journal.save()
