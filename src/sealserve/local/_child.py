"""Runs as a script between the supervisor and a program: ties the program's life to the supervisor's, then becomes it.

``python -I -S _child.py SIGNAL SUPERVISOR PROGRAM [ARGUMENT ...]``. A script of its own, and not a function run between
fork and exec: the supervisor may have threads, after whose fork no Python code is safe. It imports the standard library
only.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec of an ordinary program


def _become(signal_number: int, supervisor: int, command: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before the line above took effect
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"error: cannot run {command[0]}: {error.strerror}\n")
        sys.exit(6)


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
