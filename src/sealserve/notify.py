"""The readiness protocol of systemd (sd_notify(3)), so that our processes work under systemd and our own supervisor.

A process sends ``READY=1`` and ``STATUS=...`` as datagrams to the UNIX socket named by ``NOTIFY_SOCKET``.
"""

from __future__ import annotations

import os
import socket

VARIABLE = "NOTIFY_SOCKET"


def notify(**fields: str | int) -> bool:
    """Send fields such as ``READY=1`` or ``STATUS="loading the model"`` to the supervisor, if there is one.

    :returns: whether a supervisor was told. A supervisor that went away is no error: the process goes on.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(f"{key}={value}" for key, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(message.encode(), address)
        except OSError:
            return False
    return True


def parse(datagram: bytes) -> dict[str, str]:
    """The fields of one datagram; lines without ``=`` are ignored, as sd_notify receivers do."""
    lines = datagram.decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
