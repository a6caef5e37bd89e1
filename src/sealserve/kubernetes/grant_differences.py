"""What a deployment says otherwise than the key broker's grant, by which replicas go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sealserve.deploy import Deployment
from sealserve.deploy.grant_arguments import grant_arguments
from sealserve.errors import SealserveError

if TYPE_CHECKING:
    from sealserve.broker.store import GrantDocument

_SETTINGS = {
    "engine": "model.engine",
    "precision": "model.precision",
    "threads": "replicas.threads",
    "batching": "model.batching",
}
"""Argument of a grant → the setting that it is made of."""
_LONGEST = 40  # characters


def grant_differences(deployment: Deployment, grant: GrantDocument) -> list[str]:
    """A warning, if replicas would run otherwise than the deployment says; for people.

    Replicas come up nevertheless, so that it is none of the reasons to apply nothing.
    """
    model = deployment.model
    pairs: dict[str, tuple[str | None, str | None]] = {
        "model.name": (model.name, grant.model.name),
        "model.mount": (model.mount_path, grant.model.mount),
    }
    try:
        wanted = grant_arguments(deployment, threads=deployment.replicas.threads_each)
    except SealserveError as error:  # the file of batching parameters is on the machine that prepares alone
        return [not_looked_at(error)]
    if deployment.replicas.threads == "auto" and "threads" in grant.arguments:
        wanted["threads"] = grant.arguments["threads"]  # as many as the machine that prepares has
    for name in {**wanted, **grant.arguments}:
        pairs[_SETTINGS.get(name, f"arguments.{name}")] = (wanted.get(name), grant.arguments.get(name))
    found = [_told(setting, *pair) for setting, pair in pairs.items() if pair[0] != pair[1]]
    if not found:
        return []
    text = (
        f"deployment.yaml says otherwise than the grant of {deployment.name}, by which replicas go: "
        f"{'; '.join(found)}. Run `sealserve prepare` first, or change the grant where the broker is (`sealserve "
        "broker grant put`); replicas take it over when they ask again"
    )
    return [text]


def not_looked_at(error: SealserveError) -> str:
    """The warning that the deployment and the grant were not compared, and why; for people."""
    return f"whether the key broker's grant is as the deployment says was not looked at: {error.message}"


def _told(setting: str, ours: str | None, theirs: str | None) -> str:
    told = [each or "nothing" for each in (ours, theirs)]
    if all(each.isprintable() and len(each) <= _LONGEST for each in told):
        return f"{setting} {told[0]}, not {told[1]}"
    return f"{setting} is another"
