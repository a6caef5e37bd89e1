"""``sealserve k8s apply`` and ``diff``: a deployment into a cluster."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.cluster_options import (
    ClusterAccess,
    cluster_options,
    json_option,
    model_size_option,
    wait_timeout_option,
)
from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import final_event, say
from sealserve.cli.kubernetes_outcome import outcome_of, replicas_of, show_outcome, warn_of_broker, ways_in
from sealserve.cli.kubernetes_policy import explained_refusal, granted, permitting, server_of, warnings_of_grant
from sealserve.cli.rollout_display import Account, rollout_display
from sealserve.cli.signals import interrupted_by_termination
from sealserve.errors import SealserveError
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.kubernetes.live.api import Cluster
    from sealserve.kubernetes.live.rollout import Rollout, Snapshot
    from sealserve.kubernetes.plan import Plan
    from sealserve.kubernetes.yaml_text import Object

_FILE = click.Path(dir_okay=False, path_type=Path)
_TLS = click.option(
    "--tls",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ssl_configure/sealed"),
    show_default=True,
    help="With tensorflow-serving, the directory of the sealed ssl.cfg.",
)
_FORCE = click.option(
    "--force-conflicts", is_flag=True, help="Take fields from whoever else has set them, the number of replicas too."
)
_SIGNATURE = click.option(
    "--signature",
    type=click.Path(path_type=Path),
    default=Path("signature"),
    show_default=True,
    help="With tee: sgx, what `sealserve image sign` wrote: says what the replicas measure to.",
)
_CANARY_SIGNATURE = click.option(
    "--canary-signature",
    type=click.Path(path_type=Path),
    help="The same of kubernetes.canary's image.",
)


@click.command(short_help="Bring a deployment into a cluster, and wait for it.")
@deployment_option
@cluster_options
@wait_timeout_option(900, "everything is ready")
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="With --no-wait nothing is removed that is not rendered any more.",
)
@_FORCE
@_SIGNATURE
@_CANARY_SIGNATURE
@click.option(
    "--broker-server",
    envvar="SEALSERVE_BROKER_SERVER",
    show_envvar=True,
    metavar="https://HOST:PORT",
    help="Ask the key broker's administration there about its policy; the store that `sealserve prepare` made if not "
    "given.",
)
@click.option(
    "--broker-ca",
    envvar="SEALSERVE_BROKER_CA",
    show_envvar=True,
    type=_FILE,
    help="The authority that signed its certificate, PEM; the system's if not given.",
)
@click.option(
    "--broker-token-file",
    envvar="SEALSERVE_BROKER_TOKEN_FILE",
    show_envvar=True,
    type=_FILE,
    help="Holds a token of `broker admin token create`; mode 0600.",
)
@click.option("--skip-policy-check", is_flag=True, help="Do not ask about the broker's policy.")
@click.option(
    "--allow-gap", is_flag=True, help="Go on though the policy does not accept the running replicas any more."
)
@_TLS
@model_size_option
@json_option
def apply(
    *,
    file: Path,
    access: ClusterAccess,
    timeout: float,
    wait: bool,
    force_conflicts: bool,
    signature: Path,
    canary_signature: Path | None,
    broker_server: str | None,
    broker_ca: Path | None,
    broker_token_file: Path | None,
    skip_policy_check: bool,
    allow_gap: bool,
    tls: Path,
    model_size: int | None,
    as_json: bool,
) -> None:
    """Apply a deployment to a cluster: everything that `k8s render` writes, and the Secret that it does not.

    First the key broker's policy is asked whether it accepts these replicas, and everything is tried by the API
    server's dry run: if either refuses, nothing is applied. Then this waits until every replica is attested and
    serves, and says why one does not. Ctrl-C leaves the rollout going.

    That a replica is attested is what its cluster says here: `sealserve verify` checks the evidence itself.
    """
    from sealserve.kubernetes.live.applying import apply_objects, prune
    from sealserve.kubernetes.live.policy_check import annotated, judge, measure_replicas
    from sealserve.kubernetes.live.rollout import Rollout

    started = time.monotonic()
    account = Account(as_json=as_json)
    replicas: list[dict[str, Any]] = []
    about: dict[str, Any] = {"changes": account.changes, "warnings": account.warnings, "replicas": replicas}
    with interrupted_by_termination(), final_event(enabled=as_json, **about):
        plan, objects = _objects(file, model_size=model_size, tls=tls)
        measurements = measure_replicas(plan, signature, canary_signature)
        objects = annotated(objects, measurements)
        with access.connect() as cluster:
            _warn_before(cluster, plan, account)
            verdict = None
            server = server_of(broker_server, broker_ca, broker_token_file)
            if not skip_policy_check:
                signatures = [signature] if canary_signature is None else [signature, canary_signature]
                ways_on = permitting(plan, server, file=file, signatures=signatures)
                verdict = judge(
                    cluster, plan, measurements, granted(plan, server), permitted_by=ways_on, allow_gap=allow_gap
                )
                for reason in verdict.reasons:
                    account.warning(f"whether the key broker accepts these replicas will be seen: {reason}")
                for warning in verdict.warnings:
                    account.warning(warning)
            applied: list[Object] = []
            with _half_done(account, applied, total=len(objects)):
                rollout = Rollout(cluster, plan)
                applied += apply_objects(cluster, objects, told=account.told, force=force_conflicts)
                if not wait:
                    snapshot = rollout.look()
                    replicas += replicas_of(snapshot)
                else:
                    with explained_refusal(plan, server):
                        snapshot = _wait(rollout, applied, replicas, timeout=timeout, quiet=as_json)
                    prune(cluster, objects, name=plan.name, namespace=plan.namespace, told=account.told)
                _warn_after(cluster, plan, account)
                warn_of_broker(plan, rollout, snapshot, account=account)
                ways = ways_in(plan, snapshot, account=account) if wait else {}
            requests = cluster.requests
    outcome = outcome_of(plan, snapshot, measurements, verdict, ways) | about | {"requests": requests}
    outcome["seconds"] = round(time.monotonic() - started, 2)
    if as_json:
        click.echo(json.dumps(outcome))
    elif not wait:
        click.echo("not waited for: `sealserve k8s status` shows how far it is")
    else:
        show_outcome(snapshot, ways, file=file)


@click.command(short_help="Show what apply would change.")
@deployment_option
@cluster_options
@click.option("--exit-code", is_flag=True, help="End with 1 if there are differences, as `kubectl diff` does.")
@_FORCE
@_SIGNATURE
@_CANARY_SIGNATURE
@_TLS
@model_size_option
@json_option
def diff(
    *,
    file: Path,
    access: ClusterAccess,
    exit_code: bool,
    force_conflicts: bool,
    signature: Path,
    canary_signature: Path | None,
    tls: Path,
    model_size: int | None,
    as_json: bool,
) -> int:
    """Show what `apply` would change, object by object, as the API server's dry run says it.

    Nothing is changed. Values of Secrets are not shown. Fields that somebody else has set since are shown too, and it
    is said whose they are: `apply` refuses to take them without --force-conflicts.
    """
    from sealserve.kubernetes.live.comparing import differences
    from sealserve.kubernetes.live.policy_check import annotated, measure_replicas

    plan, objects = _objects(file, model_size=model_size, tls=tls)
    for warning in warnings_of_grant(file):
        say("warning", "yellow", warning)
    objects = annotated(objects, measure_replicas(plan, signature, canary_signature))
    conflicts: list[str] = []
    with access.connect(reading=True) as cluster:
        found, judged = differences(
            cluster, objects, name=plan.name, force=force_conflicts, on_conflict=conflicts.append
        )
    if as_json:
        told = {"differences": [vars(each) for each in found], "conflicts": conflicts, "judged_by_server": judged}
        click.echo(json.dumps(told))
    else:
        for each in found:
            click.echo("\n".join(map(printable, each.text.splitlines())))
        if not found:
            say("note", "cyan", "nothing would change")
        if not judged:
            say("note", "cyan", f"there is no namespace {plan.namespace} yet: what is in it is shown as it is rendered")
        for conflict in conflicts:
            say("warning", "yellow", f"{printable(conflict)}: `apply` refuses without --force-conflicts")
    return 1 if found and exit_code else 0


def _objects(file: Path, *, model_size: int | None, tls: Path) -> tuple[Plan, list[Object]]:
    """All objects of a deployment, the namespace first."""
    from sealserve.kubernetes.rendering import objects_by_file, plan_deployment
    from sealserve.kubernetes.secret_objects import secret_objects

    plan = plan_deployment(file, model_size=model_size)
    rendered = [thing for things in objects_by_file(plan).values() for thing in things]
    return plan, [*rendered[:1], *secret_objects(plan, tls=tls), *rendered[1:]]


@contextlib.contextmanager
def _half_done(account: Account, applied: list[Object], *, total: int) -> Iterator[None]:
    """Say how far it got if it ends in the middle.

    :param applied: the objects, as soon as all are. :param total: how many there are to apply.
    """
    try:
        yield
    except (SealserveError, KeyboardInterrupt) as error:
        if applied:
            if isinstance(error, KeyboardInterrupt):
                going_on = "everything is applied, and the rollout goes on in the cluster"
                say("note", "cyan", f"{going_on}: `sealserve k8s status` shows it.")
        elif account.changes and account.changes[-1]["what"] != "removed":
            say("note", "cyan", f"{len(account.changes)} of {total} objects were applied: apply again to go on.")
        elif isinstance(error, KeyboardInterrupt):
            say("note", "cyan", "nothing was applied.")
        raise


def _warn_before(cluster: Cluster, plan: Plan, account: Account) -> None:
    """Say what may keep a deployment from doing what it should, as far as the cluster tells."""
    from sealserve.kubernetes.live.errors import ClusterRefusedError
    from sealserve.kubernetes.live.monitoring_namespace import shut_out
    from sealserve.kubernetes.rendering import warnings_about

    version = (0, 0)
    with contextlib.suppress(ClusterRefusedError):
        version = cluster.version()
    for warning in warnings_about(plan, version):
        account.warning(warning)
    with contextlib.suppress(ClusterRefusedError):
        if (missing := shut_out(cluster, plan)) is not None:
            account.warning(missing)


def _warn_after(cluster: Cluster, plan: Plan, account: Account) -> None:
    """Say what does not go on by itself."""
    from sealserve.kubernetes.live.autoscaling import autoscaler_of
    from sealserve.kubernetes.live.errors import ClusterRefusedError

    with contextlib.suppress(ClusterRefusedError):
        if (scaler := autoscaler_of(cluster, plan)) is not None and scaler.trouble is not None:
            account.warning(scaler.trouble)


def _wait(
    rollout: Rollout, applied: list[Object], replicas: list[dict[str, Any]], *, timeout: float, quiet: bool
) -> Snapshot:
    """Follow the rollout. :param replicas: always what was seen last."""
    with rollout_display(quiet=quiet) as show:

        def on_snapshot(snapshot: Snapshot) -> None:
            replicas[:] = replicas_of(snapshot)
            show(snapshot)

        return rollout.follow(applied, timeout=timeout, on_snapshot=on_snapshot)
