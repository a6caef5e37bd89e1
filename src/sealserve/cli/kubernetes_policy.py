"""What ``k8s apply`` asks of the key broker that is at hand: its policy before, and its audit log after a refusal."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sealserve import __version__
from sealserve.errors import SealserveError

if TYPE_CHECKING:
    from sealserve.broker.admin.connection import Server
    from sealserve.kubernetes.live.policy_check import GrantedPolicy
    from sealserve.kubernetes.plan import Plan


def server_of(address: str | None, ca: Path | None, token_file: Path | None) -> Server | None:
    """The broker's administration that was named, if one was."""
    from sealserve.broker.admin.connection import Server

    return None if address is None else Server(address, ca, token_file, None, None)


def granted(plan: Plan, server: Server | None) -> GrantedPolicy | str:
    """What the broker that is at hand goes by, or why that is not known. A broker that was named has to answer."""
    from sealserve.cli.broker_options import Target, administration
    from sealserve.kubernetes.live.errors import NotPermittedError
    from sealserve.kubernetes.live.policy_check import granted_policy

    if server is None and not _store(plan).is_file():
        return "its store is not here, and no --broker-server was given"
    try:
        with administration(Target(_store(plan), server)) as broker:
            return granted_policy(broker, plan.name)
    except SealserveError as error:
        if server is not None or isinstance(error, NotPermittedError):
            raise
        return error.message


def warnings_of_grant(file: Path) -> list[str]:
    """What a deployment says otherwise than the grant that ``sealserve prepare`` made here, if it is at hand."""
    from sealserve.cli.broker_options import Target, administration
    from sealserve.deploy import load_deployment
    from sealserve.kubernetes.grant_differences import grant_differences, not_looked_at
    from sealserve.kubernetes.plan import plan_for_reading

    plan = plan_for_reading(load_deployment(file))
    # A database need not be reached from here.
    if plan.deployment.broker.store is not None or not _store(plan).is_file():
        return []
    try:
        from sealserve.broker.administration import UnknownNameError

        with administration(Target(_store(plan))) as broker:
            grant = broker.grant(plan.name).document
    except ModuleNotFoundError:  # nothing here reads a store
        return []
    except SealserveError as error:
        return [] if isinstance(error, UnknownNameError) else [not_looked_at(error)]
    return grant_differences(plan.deployment, grant)


def _store(plan: Plan) -> Path:
    """The settings of the broker that `sealserve prepare` sets up."""
    return plan.deployment.state / "owner" / "broker.yaml"


def permitting(plan: Plan, server: Server | None, *, file: Path, signatures: Sequence[Path]) -> str:
    """What to do so that the broker's policy accepts the replicas.

    Simulated replicas measure to what the sealserve in their image does, which may be another than this one: to accept
    this one's measurement would shut out those that run.
    """
    option = "" if file == Path("deployment.yaml") else f" -f {shlex.quote(str(file))}"
    policy = str(plan.deployment.state / "owner" / "replica-policy.yaml") if server is None else "POLICY.yaml"
    commands = []
    if plan.deployment.tee == "sgx":
        commands += [
            f"sealserve image measure {shlex.quote(str(s))} --policy {shlex.quote(policy)}" for s in signatures
        ]
    if server is None:
        commands.append(f"sealserve prepare{option}")
    else:
        commands.append(f"sealserve broker policy put POLICY {policy} --server {shlex.quote(server.url)}")
    way = "To let them in:"
    if plan.deployment.tee == "simulated":
        way = (
            f"That is what this sealserve ({__version__}) measures to. If the image was built by another version, use "
            "that version here; or render, build and push the image again, and then:"
        )
    return "\n".join([way, *(f"  {command}" for command in commands)])


@contextlib.contextmanager
def explained_refusal(plan: Plan, server: Server | None) -> Iterator[None]:
    """Have the broker's audit log say why it refused a replica, if it is at hand."""
    from sealserve.cli.broker_options import Target, audit_log
    from sealserve.kubernetes.live.errors import ReplicasRefusedError
    from sealserve.kubernetes.live.policy_check import recorded_reason

    try:
        yield
    except ReplicasRefusedError as error:
        why = None
        with contextlib.suppress(SealserveError), audit_log(Target(_store(plan), server)) as audit:
            why = recorded_reason(audit, plan.name, error.message)
        if why is None:
            raise
        raise ReplicasRefusedError(f"{error.message}. {why}", hint=error.hint) from error
