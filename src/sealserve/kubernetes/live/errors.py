"""What an API server can say no to."""

from __future__ import annotations

import re

from sealserve.errors import ConfigurationError, InputError, TrustError, UnavailableError

_OWNED = re.compile(r'(\S+): conflict with "([^"]*)"')


class ClusterRefusedError(InputError):
    """The API server understood a request, and refuses it.

    :param status: HTTP status. :param causes: what it objects to, field by field, if it says so.
    """

    def __init__(self, message: str, *, status: int, causes: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.causes = causes


class ForbiddenError(ClusterRefusedError):
    """Whoever the kubeconfig names may not do this, or is not known to the cluster."""


class ConflictError(ClusterRefusedError):
    """Another field manager owns a field that would be changed, or the object changed meanwhile."""

    @property
    def owned(self) -> str | None:
        """Which fields whom else belong to, as ``FIELD by MANAGER, …``; None if it is not about fields."""
        found = [match.groups() for cause in self.causes if (match := _OWNED.match(cause))]
        return ", ".join(f"{field} by {manager}" for field, manager in found) or None


class MissingKindError(ClusterRefusedError):
    """The cluster has no such kind of object: its CustomResourceDefinition is not installed, or it is too old."""


class KubeconfigError(ConfigurationError):
    """There is no kubeconfig, no such context in it, or its credentials cannot be had."""


class UncheckedServerError(TrustError):
    """Nobody would check who answers as the API server, which gets logins and Secrets, or as the issuer of a login."""


class ObjectsRefusedError(InputError):
    """The API server's dry run refuses objects, so that nothing was applied."""


class NotPermittedError(TrustError):
    """The key broker's policy would refuse the replicas that are to be applied, or those that run."""


class ReplicasRefusedError(TrustError):
    """The key broker refused replicas that were applied."""


class RolloutFailedError(InputError):
    """Replicas cannot come up as they were applied: no image, no pods, or they end."""


class RolloutTimeoutError(UnavailableError):
    """Replicas, or what leads to them, are not ready in time."""
