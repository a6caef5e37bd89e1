"""The attester in a TDX guest: quotes through the kernel's reports in configfs, without a vendor's library.

Interface: Linux, ``Documentation/ABI/testing/configfs-tsm-report`` (6.7 and later). A report is a directory that one
makes: 64 bytes are written to ``inblob``, and reading ``outblob`` has the quote made. ``provider`` names the kind of
TEE; ``generation`` counts what was written.
"""

from __future__ import annotations

import errno
import logging
import secrets
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from sealserve.evidence.attester import check_report_data
from sealserve.evidence.errors import AttestationError, AttestationUnavailableError
from sealserve.logs import event, get_logger

_log = get_logger(__name__)

REPORTS = Path("/sys/kernel/config/tsm/report")
"""Where the kernel has its reports."""

TDX_GUEST = Path("/dev/tdx_guest")
"""The device of the kernel's driver: where it is, this machine is a TDX guest."""

_PROVIDER = "tdx_guest"
_LIMIT = 1 << 17  # the kernel gives no more than 8 to 128 KB, by its version
_VERSION, _TEE_TYPE = 4, 0x81
_REPORT_DATA = slice(568, 632)  # of a quote of version 4: after 48 bytes of header, at the end of the report
# The driver has one buffer for quotes, and is busy until the host has answered whoever asked before.
_BUSY = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR})
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_MODULES = "as root `mount -t configfs none /sys/kernel/config` and `modprobe tdx_guest`"


class TsmAttester:
    """Quotes of the TDX guest that this process runs in. Safe for several threads.

    A quote takes as long as the host's quote generation service takes; the kernel gives up after 30 seconds.

    :param root: where the kernel has its reports. :param pause: waits so many seconds before trying again.
    """

    tee: Literal["tdx"] = "tdx"

    def __init__(self, root: Path = REPORTS, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._root = root
        self._pause = pause
        self._lock = threading.Lock()  # more at once would only find the driver busy

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote over ``report_data`` (64 bytes): version 4, of a trust domain.

        :raises AttestationUnavailableError: this is no TDX guest, or its reports cannot be used.
        :raises AttestationError: the host or the kernel failed to produce the quote.
        """
        check_report_data(report_data)
        with self._lock:
            quote = self._repeat(report_data)
        _check(quote, report_data)
        return quote

    def _repeat(self, report_data: bytes) -> bytes:
        """Try until there is a quote, or it was tried often enough."""
        for pause in (*_PAUSES, None):
            try:
                quote = self._attempt(report_data)
            except OSError as error:
                if error.errno not in _BUSY or pause is None:
                    raise self._explain(error) from error
            else:
                if quote is not None:
                    return quote
            if pause is not None:
                self._pause(pause)
        raise AttestationError(
            f"other programs keep writing to the reports in {self._root}",
            hint="Find out which program of this guest writes to reports that are not its own.",
        )

    def _attempt(self, report_data: bytes) -> bytes | None:
        """Ask once, by a report of our own. :returns: none if somebody else wrote to it meanwhile."""
        report = self._root / f"sealserve-{secrets.token_hex(8)}"
        report.mkdir()
        try:
            self._check_provider(report)
            before = _generation(report)
            with (report / "inblob").open("wb", buffering=0) as file:
                file.write(report_data)
            quote = bytearray()
            with (report / "outblob").open("rb", buffering=0) as file:
                while len(quote) < _LIMIT and (piece := file.read(_LIMIT - len(quote))):
                    quote += piece
            # The kernel tells nobody when a write fails, and counts only those that did not.
            written = _generation(report) - before
        finally:
            try:
                report.rmdir()
            except OSError as error:
                event(_log, logging.WARNING, "report-not-removed", path=report, reason=error.strerror)
        return bytes(quote) if written == 1 else None

    def _check_provider(self, report: Path) -> None:
        provider = (report / "provider").read_text(encoding="ascii", errors="replace").strip()
        if provider != _PROVIDER:
            raise AttestationUnavailableError(
                f'the reports in {self._root} come from "{provider}", and this is about "{_PROVIDER}"',
                hint="Of the machines whose whole memory is protected, only TDX guests are supported.",
            )

    def _explain(self, error: OSError) -> AttestationError:
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR if not self._root.is_dir():
                return AttestationUnavailableError(
                    f"there is no {self._root}: this is no TDX guest, or it is not set up for quotes",
                    hint=f"In a TDX guest with Linux 6.7 or later, run {_MODULES}. Elsewhere, try things out with "
                    "tee: simulated.",
                )
            case errno.ENXIO | errno.ENODEV | errno.ENOENT | errno.ENOTTY:
                return AttestationUnavailableError(
                    f"no driver of this kernel serves the reports in {self._root}", hint=f"Run {_MODULES}."
                )
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return AttestationUnavailableError(
                    f"this process may not make reports in {self._root}: {error.strerror}",
                    hint="The kernel lets root alone make them. A systemd unit must not have ProtectKernelTunables=.",
                )
            case errno.ETIMEDOUT | errno.EIO:
                return AttestationError(
                    f"the host does not produce a quote: {error.strerror}",
                    hint="Ask the host's operator whether its quote generation service (qgsd) runs, is reachable from "
                    "guests, and has its PCCS.",
                )
            case _:
                return AttestationError(f"cannot get a quote from {self._root}: {error.strerror or error}")


def _generation(report: Path) -> int:
    text = (report / "generation").read_text(encoding="ascii", errors="replace").strip()
    try:
        return int(text)
    except ValueError as error:
        raise AttestationError(f"{report / 'generation'} has no number in it") from error


def _check(quote: bytes, report_data: bytes) -> None:
    """The quote must be of the kind that is judged here, and for what was asked."""
    if len(quote) < _REPORT_DATA.stop or len(quote) >= _LIMIT:
        raise AttestationError(f"the host gave {len(quote)} bytes, which are no quote")
    version, _, tee_type = struct.unpack_from("<HHI", quote)
    if (version, tee_type) != (_VERSION, _TEE_TYPE):
        raise AttestationError(
            f"the host gave a quote of version {version} for TEE type {tee_type:#x}; supported are quotes of version "
            f"{_VERSION} for TEE type {_TEE_TYPE:#x}",
            hint="Ask the host's operator for the quote generation service of Intel's DCAP with quotes of version 4.",
        )
    if quote[_REPORT_DATA] != report_data:
        raise AttestationError("the quote is not over the report data that was asked for")
