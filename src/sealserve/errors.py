"""The error tree of sealserve, by cause.

Every error that a user can meet derives from :class:`SealserveError` and says what to do in ``hint``. The cause decides
the exit code, so that scripts can tell bad input from a refusal of trust:

=====  ====================================================================
code   meaning
=====  ====================================================================
1      a defect in sealserve itself (never raised on purpose)
2      wrong command line (raised by the command-line parser)
3      :class:`InputError`: a file, setting or argument is not usable
4      :class:`TrustError`: evidence, policy, key or seal says no
5      :class:`UnavailableError`: a peer or service cannot be reached
6      :class:`MachineError`: this machine lacks something (program, port, disk space)
130    interrupted
=====  ====================================================================
"""

from __future__ import annotations

from typing import ClassVar


class SealserveError(Exception):
    """Base of all errors of sealserve.

    :param message: what went wrong, one sentence, without secrets.
    :param hint: what the user can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def reason(self) -> str:
        """A stable machine-readable name of the cause, e.g. ``quote-malformed``."""
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")

    def as_dict(self) -> dict[str, str]:
        """The error as scripts read it with ``--json``."""
        out = {"error": self.message, "reason": self.reason}
        if self.hint:
            out["hint"] = self.hint
        return out


def describe_failure(error: BaseException) -> dict[str, str | int]:
    """Any error as scripts read it: ``error``, ``reason``, ``hint`` if there is one, ``exit_code``.

    The text of a foreign exception is left out: it could hold anything.
    """
    if isinstance(error, SealserveError):
        return {**error.as_dict(), "exit_code": error.exit_code}
    if isinstance(error, KeyboardInterrupt):
        return {"error": "interrupted", "reason": "interrupted", "exit_code": 130}
    return {"error": f"a defect in sealserve ({type(error).__name__})", "reason": "defect", "exit_code": 1}


# --- 3: what the user gave is not usable --------------------------------------------------------------------------


class InputError(SealserveError):
    """A file, setting or argument is missing or not usable."""

    exit_code = 3


class ConfigurationError(InputError):
    """A configuration file (deployment.yaml, policy, broker) is not valid."""


class ModelError(InputError):
    """A model is missing, is no SavedModel, or cannot be run by the engine."""


class ImageError(InputError):
    """A picture cannot be read."""


class KeyFileError(InputError):
    """A key file is missing, has the wrong size, or is readable by others."""


# --- 4: trust says no ---------------------------------------------------------------------------------------------


class TrustError(SealserveError):
    """Base of every refusal of trust. Whoever catches one fails closed."""

    exit_code = 4


class SealError(TrustError):
    """Base of errors of the encrypted-file format."""


class EvidenceError(TrustError):
    """Base of errors of evidence: it is malformed, unverifiable or not bound to what it should be."""


class PolicyRefusedError(TrustError):
    """Evidence is genuine, but the appraisal policy does not accept it."""


class BrokerRefusedError(TrustError):
    """The key broker refused to release a key."""


# --- 5: somebody cannot be reached --------------------------------------------------------------------------------


class UnavailableError(SealserveError):
    """A peer (broker, replica, gateway, collateral service) cannot be reached or does not answer in time."""

    exit_code = 5


# --- 6: the machine lacks something -------------------------------------------------------------------------------


class MachineError(SealserveError):
    """This machine lacks something: a program, a package, a device, a free port, disk space."""

    exit_code = 6
