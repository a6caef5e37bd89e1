"""Ending a supervisor that does not end by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sealserve.local import control
from sealserve.local.control import stop_cluster
from sealserve.local.layout import Layout
from sealserve.local.proc import facts_of
from sealserve.local.state import lock_holder

_HOLD = """
import signal, sys, time
from pathlib import Path
from sealserve.local.layout import Layout
from sealserve.local.state import cluster_lock
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with cluster_lock(Layout(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


def test_what_is_waited_for_is_said_and_what_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path).make()
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        facts = facts_of(process.pid)
        assert facts is not None
        assert lock_holder(layout) == (process.pid, facts.started)
        os.kill(process.pid, signal.SIGSTOP)
        monkeypatch.setattr(control, "_SAY_AFTER", 0.1)
        said: list[str] = []
        assert stop_cluster(layout, patience=0.5, on_wait=said.append)
        assert len(said) == 1
        assert f"process {process.pid}" in said[0]
        assert process.wait(timeout=10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_a_lock_that_says_nothing_of_its_holder_names_nobody(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for content in (b"", b"\xff\xff", b"12", b"x y\n", b"1 2 3\n"):
        layout.lock.write_bytes(content)
        assert lock_holder(layout) is None
