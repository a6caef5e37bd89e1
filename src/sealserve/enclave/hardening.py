"""What a process that holds plaintext does about its own leaks.

Inside SGX the hardware does this and more. On the simulated platform it keeps other processes of the same user, and
core dumps, from reading the memory by accident; it stops nobody who means it.
"""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def harden_process() -> None:
    """Forbid core dumps, and ``ptrace`` and ``/proc/PID/mem`` to other unprivileged processes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
