"""The asyncio client behind the surface of the synchronous one, so that the same tests are asked of both."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from sealserve.client import aio


class BlockingAsyncClient:
    """An :class:`AsyncClient` in an event loop of its own, in a thread of its own; may be used from many threads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

        async def make() -> aio.AsyncClient:
            return aio.AsyncClient(*arguments, **options)

        try:
            self._client = self._loop.run_until_complete(make())
        except BaseException:
            self._loop.close()
            raise
        self._thread.start()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        return self._run(self._client.predict(*arguments, **options))

    def metadata(self, *arguments: Any, **options: Any) -> Any:
        return self._run(self._client.metadata(*arguments, **options))

    def verify(self, **options: Any) -> Any:
        return self._run(self._client.verify(**options))

    def call(self, *arguments: Any, **options: Any) -> Any:
        return self._run(self._client.call(*arguments, **options))

    def request(self, *arguments: Any, **options: Any) -> Any:
        return self._run(self._client.request(*arguments, **options))

    def drop_connections(self) -> None:
        self._loop.call_soon_threadsafe(self._client.drop_connections)

    @property
    def policy(self) -> Any:
        return self._client.policy

    @policy.setter
    def policy(self, policy: Any) -> None:
        self._client.policy = policy

    def close(self) -> None:
        self._run(self._client.close())

    def __enter__(self) -> BlockingAsyncClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def attest_by_asyncio(*arguments: Any, **options: Any) -> Any:
    return asyncio.run(aio.attest(*arguments, **options))
