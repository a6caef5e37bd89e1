"""The attester's side: what asks the platform for a quote over 64 bytes of report data."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Literal, Protocol

from sealserve.evidence.errors import AttestationError, AttestationUnavailableError

REPORT_DATA_SIZE = 64
_QUOTE_LIMIT = 1 << 16
_REPORT_DATA = slice(368, 432)  # of an SGX quote of version 3: after 48 bytes of header, at the end of the report


class Attester(Protocol):
    """Something that can have this enclave, or trust domain, quoted."""

    @property
    def tee(self) -> Literal["sgx", "tdx", "simulated"]:
        """The kind of platform that the quotes come from."""
        ...

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote over ``report_data``.

        :param report_data: exactly 64 bytes.
        :raises AttestationError: the platform does not produce one.
        """
        ...


def check_report_data(report_data: bytes) -> None:
    """Refuse report data of another size than 64 bytes.

    :raises AttestationError: the size is wrong.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise AttestationError(f"report data must have {REPORT_DATA_SIZE} bytes, not {len(report_data)}")


class GramineAttester:
    """Quotes of the SGX enclave that Gramine runs this process in.

    The interface is Gramine's pseudo-file system: write 64 bytes to ``user_report_data``, then read ``quote``
    (https://gramine.readthedocs.io/en/stable/attestation.html). Not safe for several threads at once by itself: a
    thread could read the quote over another's report data. Every quote is therefore compared with what was asked for.

    :param root: where Gramine mounts it.
    """

    tee: Literal["sgx"] = "sgx"

    def __init__(self, root: Path = Path("/dev/attestation")) -> None:
        self._root = root
        self._lock = threading.Lock()  # one report data at a time: the file is the enclave's, not the thread's

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote over ``report_data`` (64 bytes).

        :raises AttestationUnavailableError: not inside Gramine, or the manifest has no remote attestation.
        :raises AttestationError: the platform failed to produce the quote.
        """
        check_report_data(report_data)
        self._check_attestation_type()
        with self._lock:
            return self._quote(report_data)

    def _quote(self, report_data: bytes) -> bytes:
        try:
            # Unbuffered and without truncation: the pseudo-file takes one write of exactly 64 bytes.
            with (self._root / "user_report_data").open("r+b", buffering=0) as file:
                file.write(report_data)
            with (self._root / "quote").open("rb", buffering=0) as file:
                quote = file.read(_QUOTE_LIMIT + 1)
        except OSError as error:
            raise self._explain(error) from error
        if not quote or len(quote) > _QUOTE_LIMIT:
            raise AttestationError(
                f"{self._root / 'quote'} gave {len(quote or b'')} bytes, which is no quote",
                hint="Is the AESM service of the host running and reachable (/var/run/aesmd/aesm.socket)?",
            )
        if quote[_REPORT_DATA] != report_data:
            raise AttestationError(
                "the quote is not over the report data that was asked for", hint="Ask from one thread at a time."
            )
        return quote

    def _check_attestation_type(self) -> None:
        path = self._root / "attestation_type"
        try:
            kind = path.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            if error.errno == errno.ENOENT and (self._root / "quote").exists():
                return  # Gramine before 1.5 has no such file.
            raise self._explain(error) from error
        if kind != "dcap":
            raise AttestationUnavailableError(
                f'this enclave offers remote attestation of type "{kind}", and only "dcap" is supported',
                hint='Set sgx.remote_attestation = "dcap" in the Gramine manifest.',
            )

    def _explain(self, error: OSError) -> AttestationError:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENODEV}:
            return AttestationUnavailableError(
                f"there is no {self._root}: this process does not run in an SGX enclave with remote attestation",
                hint="Run it under gramine-sgx with remote attestation, or try things out with tee: simulated.",
            )
        return AttestationError(
            f"cannot get a quote from {self._root}: {error.strerror or error}",
            hint="Is the AESM service of the host running and reachable (/var/run/aesmd/aesm.socket)?",
        )
