"""What the tests of the whole system share: the command as a user runs it, and a look at what is left running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "sealserve")


def run(*arguments: str | Path, cwd: Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run `sealserve ARGUMENTS` to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout
    )


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def processes_of(directory: Path) -> dict[int, str]:
    """Every process whose command line names something below ``directory``."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(directory) in command:
                found[int(entry.name)] = command
    return found
