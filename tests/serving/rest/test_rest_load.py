from __future__ import annotations

import asyncio
import threading
import time

import pytest

from sealserve.serving.errors import OverloadedError
from sealserve.serving.load import Load
from sealserve.serving.rest.places import Memory, Places, Share


def test_what_waits_and_what_is_refused_is_told() -> None:
    places, share, end = Places(threads=1, waiting=1), Share(Memory(10)), threading.Event()

    async def ask() -> None:
        deadline = time.monotonic() + 20
        asked = [asyncio.create_task(places.run(lambda _: end.wait(20), deadline=deadline, share=share)) for _ in "12"]
        await asyncio.sleep(0)
        assert places.load == Load(working=2, most=2, refused=0)
        with pytest.raises(OverloadedError):
            await places.run(lambda _: True, deadline=deadline, share=share)
        assert places.load == Load(working=2, most=2, refused=1)
        end.set()
        assert await asyncio.gather(*asked) == [True, True]
        assert places.load == Load(working=0, most=2, refused=1)

    asyncio.run(ask())
    places.close()
