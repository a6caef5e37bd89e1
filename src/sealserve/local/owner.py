"""``sealserve prepare``: what owner, platform and clients of a deployment need, where replicas run elsewhere.

The same directory and the same steps as for a cluster on this machine, without its processes. What replicas in enclaves
and TDX guests measure to, this machine cannot know: the owner puts it into the policy, and prepares again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sealserve.configuration import load_yaml
from sealserve.deploy import Deployment, load_deployment
from sealserve.deploy.images.sizing import ASSUMED_THREADS
from sealserve.errors import ConfigurationError, SealserveError
from sealserve.evidence.policy import PolicyDocument
from sealserve.files import write_atomically
from sealserve.local.broker_store import PreparedModel, fill_store, write_broker_configuration
from sealserve.local.layout import Layout
from sealserve.local.ownership import claim
from sealserve.local.prepare import (
    Progress,
    check_model,
    prepare_keys,
    prepare_model,
    prepare_platform,
    prepare_policies,
)
from sealserve.local.state import cluster_lock


@dataclass(frozen=True)
class PreparedOwner:
    """What there is now.

    :ivar complete: whether the broker knows which replicas get the key. If not, the policy has yet to be made.
    :ivar replaced: MRENCLAVE, in hexadecimal, that the policy accepted before, and the one that it accepts now in its
        place; None if nothing was replaced. Of simulated replicas alone: other policies are the owner's own.
    """

    deployment: Deployment
    layout: Layout
    model: PreparedModel
    complete: bool
    replaced: tuple[str, str] | None = None


def prepare_owner(file: Path, *, progress: Progress | None = None) -> PreparedOwner:
    """Make keys, certificates and the sealed model; with a policy also the broker's store and the clients' policy.

    Running it again changes nothing that is still right.

    :param file: the deployment's.
    :raises SealserveError: something is missing or not usable; what was there before still works.
    """
    deployment = load_deployment(file)
    check_model(deployment)
    layout = Layout(deployment.state)
    claimed = claim(layout.root, "cluster")
    with cluster_lock(layout):
        try:
            layout.make()
            policy = _policy(deployment, layout)
            replaced: tuple[str, str] | None = None
            brokers = [deployment.broker.listen, *(deployment.image.brokers or ())]
            prepare_keys(deployment, layout, brokers=brokers)
            model = prepare_model(deployment, layout, progress=progress)
            if deployment.tee == "simulated":
                prepare_platform(layout)
                before = _accepted(layout)
                after = prepare_policies(deployment, layout, model, broker=deployment.broker.listen).mrenclave.hex()
                replaced = None if before is None or before == after else (before, after)
            elif policy is not None:
                _let_in(deployment, layout, model, policy)
        except BaseException:
            claimed.discard()
            raise
    return PreparedOwner(
        deployment, layout, model, complete=deployment.tee == "simulated" or policy is not None, replaced=replaced
    )


def _policy(deployment: Deployment, layout: Layout) -> PolicyDocument | None:
    """The owner's policy for replicas, if it is made already."""
    path = layout.replica_policy
    if deployment.tee == "simulated" or not path.exists():
        return None
    policy = load_yaml(path, PolicyDocument)
    if policy.tee != deployment.tee:
        raise ConfigurationError(
            f"{path} is for tee: {policy.tee}, and the deployment is for {deployment.tee}",
            hint="Move it away, or give this deployment a `state` directory of its own.",
        )
    return policy


def _accepted(layout: Layout) -> str | None:
    """The measurement of simulated replicas that an earlier run put into their policy."""
    try:
        (entry,) = load_yaml(layout.replica_policy, PolicyDocument).enclaves
    except (SealserveError, ValueError):  # there is none, or none of ours
        return None
    return None if entry.mrenclave is None else entry.mrenclave.hex()


def _let_in(deployment: Deployment, layout: Layout, model: PreparedModel, policy: PolicyDocument) -> None:
    threads = deployment.replicas.threads
    write_broker_configuration(layout, broker=deployment.broker.listen, store=deployment.broker.store)
    fill_store(deployment, layout, model, threads=ASSUMED_THREADS if threads == "auto" else threads)
    text = policy.model_copy(update={"models": (model.digest,)}).to_yaml()
    comment = "Which replicas a client sends its data to, and which model they have to serve. Written by sealserve."
    write_atomically(layout.client_policy, f"# {comment}\n{text}")
