from __future__ import annotations

import asyncio
import os
import socket

from sealserve.local.notifications import Notifications


def _say(notifications: Notifications, text: bytes) -> None:
    address = notifications.environment["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text, address)


def test_what_a_process_said_before_it_was_registered_is_heard() -> None:
    async def main() -> None:
        notifications = Notifications()
        notifications.open()
        heard: list[dict[str, str]] = []
        _say(notifications, b"STATUS=early\nREADY=1")
        await asyncio.sleep(0.05)
        notifications.register(os.getpid() + 1, heard.append)
        assert heard == []
        notifications.register(os.getpid(), heard.append)
        assert heard == [{"STATUS": "early", "READY": "1"}]
        _say(notifications, b"STATUS=later")
        notifications.forget(os.getpid())
        assert heard[-1] == {"STATUS": "later"}
        _say(notifications, b"STATUS=too late")
        await asyncio.sleep(0.05)
        assert heard[-1] == {"STATUS": "later"}
        notifications.close()
        notifications.close()

    asyncio.run(main())


def test_garbage_is_ignored() -> None:
    async def main() -> None:
        notifications = Notifications()
        notifications.open()
        heard: list[dict[str, str]] = []
        notifications.register(os.getpid(), heard.append)
        for text in (b"", b"\xff\xfe", b"=\n==", b"x" * 10_000):
            _say(notifications, text)
        notifications.forget(os.getpid())
        assert not any(fields.get("READY") for fields in heard)
        notifications.close()

    asyncio.run(main())
