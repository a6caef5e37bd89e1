"""Group commit: decisions that are made while one commit is under way share the next one."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping
from typing import Any

from sealserve.broker.audit import AuditUnavailableError
from sealserve.broker.store import Store
from sealserve.errors import SealserveError

_LARGEST_GROUP = 500
_COMMIT_SECONDS = 0.05
"""Between two commits: one costs as much as half of a decision, so that under load others had better join."""
_Waiting = tuple[Mapping[str, Any], asyncio.Future[str]]


class AuditWriter:
    """Writes records of one broker into the store's chain. To be used in one event loop.

    :param broker: which broker this is; every record names it.
    """

    def __init__(self, store: Store, *, broker: str) -> None:
        self._store = store
        self._broker = broker
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._next_commit = 0.0
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="audit")

    async def append(self, record: Mapping[str, Any]) -> str:
        """Write a record.

        :returns: its hash, once it is on disk.
        :raises AuditUnavailableError: it is not on disk. (If the connection to PostgreSQL broke during the commit, it
            may be there nevertheless: recorded, and not done.)
        :raises AuditTamperedError: the chain was changed.
        """
        if self._closed:
            raise AuditUnavailableError("the audit log is closed")
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(({**record, "broker": self._broker}, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def close(self) -> None:
        """Write what waits, and a checkpoint.

        :raises SealserveError: it cannot be written.
        """
        self._closed = True
        try:
            if self._task is not None:
                await self._task
            await asyncio.get_running_loop().run_in_executor(self._thread, self._checkpoint)
        finally:
            self._thread.shutdown(wait=False)

    def _checkpoint(self) -> None:
        self._store.append_audit([], checkpoint=True)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(self._next_commit - loop.time())
            group, self._waiting = self._waiting[:_LARGEST_GROUP], self._waiting[_LARGEST_GROUP:]
            try:
                ends = await loop.run_in_executor(
                    self._thread, self._store.append_audit, [record for record, _ in group]
                )
            except BaseException as error:
                _fail(group, error)
                if not isinstance(error, Exception):
                    raise
            else:
                for (_, future), (_, head) in zip(group, ends, strict=True):
                    if not future.done():
                        future.set_result(head)
            self._next_commit = loop.time() + _COMMIT_SECONDS


def _fail(group: list[_Waiting], error: BaseException) -> None:
    for _, future in group:
        if not future.done():
            # One for each: exceptions gather the traces of those who wait.
            own = (
                type(error)(error.message, hint=error.hint)
                if isinstance(error, SealserveError)
                else AuditUnavailableError(f"the audit log cannot be written: a defect ({type(error).__name__})")
            )
            own.__cause__ = error
            future.set_exception(own)
