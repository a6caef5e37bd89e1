"""Secret bytes: a buffer that never prints itself, cannot be pickled, and is wiped as far as Python lets us."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Self


class Secret:
    """Bytes that must not reach logs, exceptions or disk in the clear.

    Holds its own mutable copy; :meth:`wipe` (or leaving a ``with`` block) overwrites it. Copies that libraries made of
    the bytes are out of reach: this narrows the time a key spends in memory, it does not end it.
    """

    __slots__ = ("_buffer",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._buffer = bytearray(value)

    def reveal(self) -> bytearray:
        """The bytes themselves: the live buffer, not a copy.

        :raises ValueError: after :meth:`wipe`.
        """
        if not self._buffer:
            raise ValueError("this secret was wiped")
        return self._buffer

    def wipe(self) -> None:
        """Overwrite the buffer with zeros and empty it."""
        for index in range(len(self._buffer)):
            self._buffer[index] = 0
        self._buffer.clear()

    def __len__(self) -> int:
        return len(self._buffer)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        import hmac  # here, because it loads OpenSSL: a replica first drops its environment

        return hmac.compare_digest(self._buffer, other._buffer)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Secret of {len(self._buffer)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()
