"""Readiness is told in systemd's protocol."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sealserve import notify


def test_fields_reach_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "s"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "s"))
        assert notify.notify(READY=1, STATUS="serving a=b")
        assert notify.parse(listener.recv(4096)) == {"READY": "1", "STATUS": "serving a=b"}


def test_without_a_supervisor_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify.notify(READY=1)
